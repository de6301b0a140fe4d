// A member of a mesh, written with js-libp2p and the protocol pages alone.
//
//   node --import ./polyfill.mjs member.mjs
//
// Takes commands on standard input and tells what comes of them on standard output, one JSON object
// a line each. The first is to join; the end of the input ends the member.
//
//   {"do": "join", "invitation": "meshd1...", "name": "js", "capabilities": ["label:js=yes"]}
//                                       redeems the invitation and subscribes; tells `joined`, and
//                                       `linked`, `subscriber` and `record` whenever that happens
//   {"do": "publish"}                   its presence, signed, on the topic; tells `published`
//   {"do": "provide", "key": KEY}       a provider record; tells `provided`
//   {"do": "find", "key": KEY}          who told of which providers, and whether the providers' own
//                                       signed records have the key; tells `found`
//
// With "is_stranger" it joins nothing: it has the invitation's network key, and no papers.
import { randomBytes } from 'node:crypto'
import { createInterface } from 'node:readline'
import { generateKeyPair } from '@libp2p/crypto/keys'
import { gossipsub } from '@libp2p/gossipsub'
import { identify } from '@libp2p/identify'
import { kadDHT, passthroughMapper } from '@libp2p/kad-dht'
import { noise } from '@libp2p/noise'
import { ping } from '@libp2p/ping'
import { preSharedKey } from '@libp2p/pnet'
import { tcp } from '@libp2p/tcp'
import { yamux } from '@libp2p/yamux'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'
import { CID } from 'multiformats/cid'
import * as raw from 'multiformats/codecs/raw'
import { sha256 } from 'multiformats/hashes/sha2'
import { LINK_PROTOCOL, Links } from './links.mjs'
import {
  checkMember, frame, invitationFrom, meshText, messages, opened, packed, peerText, sameBytes, signed, unpacked
} from './papers.mjs'

const JOIN_PROTOCOL = '/meshd/join/1'
const DIAL_MS = 10_000
const LOOKUP_MS = 10_000

const say = (event, details = {}) => console.log(JSON.stringify({ event, ...details }))
const reason = (error) => ({ error: error.name, message: String(error.message).split('\n')[0] })
const networkKey = (key) => Buffer.from(`/key/swarm/psk/1.0.0/\n/base16/\n${Buffer.from(key).toString('hex')}\n`)

async function start (privateKey, invitation, { listen = [], services = {} } = {}) {
  return await createLibp2p({
    privateKey,
    connectionProtector: preSharedKey({ psk: networkKey(invitation.network_key) }),
    addresses: { listen },
    transports: [tcp()],
    connectionEncrypters: [noise()],
    streamMuxers: [yamux()],
    connectionGater: { denyDialMultiaddr: () => false },
    services: { identify: identify(), ping: ping(), ...services }
  })
}

async function dial (node, invitation) {
  const addresses = invitation.addresses.map((text) => multiaddr(`${text}/p2p/${peerText(invitation.issuer)}`))
  return await node.dial(addresses, { signal: AbortSignal.timeout(DIAL_MS) })
}

// Return the papers that the issuer gives for an invitation, checked.
async function redeemed (privateKey, invitation, name) {
  const node = await start(privateKey, invitation)
  try {
    const connection = await dial(node, invitation)
    const stream = await connection.newStream(JOIN_PROTOCOL, { signal: AbortSignal.timeout(DIAL_MS) })
    stream.send(frame('join_request', { secret: invitation.secret, name }))
    let granted
    for await (const { tag, fields } of messages(stream)) {
      if (tag !== 'join_granted') throw new Error(`${tag}: ${fields.reason}`)
      granted = fields // each frame has the papers; removals are of no use to one who serves nobody
    }
    if (granted === undefined) throw new Error('the issuer closed the stream')
    const own = privateKey.publicKey.raw
    await checkMember(granted, invitation.mesh, own)
    return { own, mesh: invitation.mesh, genesis: granted.genesis, chain: granted.chain }
  } finally {
    await node.stop()
  }
}

class Member {
  #key
  #papers
  #name
  #capabilities
  #node
  #links
  #topic
  #counter = 0
  #store = randomBytes(16)

  static async join ({ invitation: token, name, capabilities = [], is_stranger: isStranger = false }) {
    const invitation = invitationFrom(token)
    const member = new Member()
    member.#key = await generateKeyPair('Ed25519')
    member.#name = name
    member.#capabilities = [...capabilities].sort()
    member.#topic = `/meshd/${meshText(invitation.mesh)}/presence`
    if (isStranger) {
      member.#papers = { own: member.#key.publicKey.raw, mesh: invitation.mesh, chain: undefined }
    } else {
      member.#papers = await redeemed(member.#key, invitation, name)
      say('joined', { peer: peerText(member.#papers.own), mesh: meshText(invitation.mesh) })
    }
    await member.#start(invitation)
    return member
  }

  async #start (invitation) {
    const kad = kadDHT({
      protocol: `/meshd/${meshText(invitation.mesh)}/kad/1.0.0`,
      clientMode: false,
      peerInfoMapper: passthroughMapper
    })
    const node = this.#node = await start(this.#key, invitation, {
      listen: ['/ip4/127.0.0.1/tcp/0'],
      services: {
        pubsub: gossipsub({ globalSignaturePolicy: 'StrictSign', allowPublishToZeroTopicPeers: true }),
        kad
      }
    })
    if (this.#papers.chain !== undefined) await this.#link()
    const { pubsub } = node.services
    pubsub.addEventListener('message', ({ detail }) => this.#onMessage(detail))
    pubsub.addEventListener('subscription-change', ({ detail: { peerId } }) => {
      if (pubsub.getSubscribers(this.#topic).some((peer) => peer.equals(peerId))) {
        say('subscriber', { peer: peerId.toString() })
      }
    })
    pubsub.subscribe(this.#topic)
    await dial(node, invitation)
  }

  async #link () {
    const links = this.#links = new Links(this.#papers, {
      recordsOf: async (kinds) => await this.#given(kinds),
      onLinked: (peer) => say('linked', { peer: peer.toString() }),
      onEnded: (peer, error) => say('unlinked', { peer: peer.toString(), ...(error && reason(error)) })
    })
    await this.#node.handle(LINK_PROTOCOL, async (stream, connection) => await links.accept(stream, connection))
    this.#node.addEventListener('connection:open', ({ detail: connection }) => {
      if (connection.direction !== 'outbound') return
      const peer = connection.remotePeer.toString()
      links.dial(connection).catch((error) => say('unlinked', { peer, ...reason(error) }))
    })
  }

  // GossipSub

  async publish () {
    const given = await this.#given(['presence'])
    const { recipients } = await this.#node.services.pubsub.publish(this.#topic, packed(given))
    say('published', { recipients: recipients.map(String) })
  }

  async #onMessage ({ topic, data, from }) {
    try {
      for (const one of unpacked(data).records) {
        const record = await opened('record', one)
        if (!sameBytes(record.owner, record.signer)) throw new Error('a record that another signed')
        const { owner, kind, body } = record
        say('record', { topic, author: String(from), owner: peerText(owner), kind, body: readable(unpacked(body)) })
      }
    } catch (error) {
      say('malformed', { topic, author: String(from), ...reason(error) })
    }
  }

  async #given (kinds) {
    const bodies = {
      presence: {
        name: this.#name,
        node_type: 'foreign',
        addresses: this.#node.getMultiaddrs().map((address) => String(address).split('/p2p/')[0]),
        protocol: [1, 1],
        store: this.#store
      },
      capabilities: { keys: this.#capabilities }
    }
    const records = []
    for (const kind of kinds.filter((kind) => kind in bodies)) {
      this.#counter += 1
      const numbered = { owner: this.#papers.own, kind, incarnation: 1, counter: this.#counter }
      records.push(await signed('record', { ...numbered, body: packed(bodies[kind]) }, this.#key))
    }
    return { records, chains: this.#papers.chain === undefined ? [] : [this.#papers.chain] }
  }

  // Kademlia

  async provide ({ key }) {
    await this.#node.contentRouting.provide(await cidOf(key), { signal: AbortSignal.timeout(LOOKUP_MS) })
    say('provided', { key })
  }

  async find ({ key }) {
    const providers = new Map()
    const toldBy = new Set()
    const lookup = { signal: AbortSignal.timeout(LOOKUP_MS) }
    for await (const event of this.#node.services.kad.findProviders(await cidOf(key), lookup)) {
      // Its own store answers first, with what others announced to it, and then those it asks.
      const named = event.name === 'PEER_RESPONSE' ? event.providers : []
      if (named.length > 0) toldBy.add(event.from.toString())
      for (const { id } of named) providers.set(id.toString(), id)
    }
    providers.delete(this.#node.peerId.toString())
    const held = {}
    for (const [name, id] of providers) held[name] = await this.#holds(id, key)
    say('found', { key, told_by: [...toldBy], providers: held })
  }

  // A provider record is a claim of whoever made it: its own signed record tells.
  async #holds (peer, key) {
    const { body } = await this.#links.ask(peer, 'capabilities')
    return unpacked(body).keys.includes(key)
  }

  async stop () {
    await this.#node.stop()
  }
}

async function cidOf (key) {
  return CID.createV1(raw.code, await sha256.digest(Buffer.from(key)))
}

function readable (body) {
  const plain = (value) => value instanceof Uint8Array ? Buffer.from(value).toString('hex') : value
  return Object.fromEntries(Object.entries(body).map(([field, value]) => [field, plain(value)]))
}

let member
for await (const line of createInterface({ input: process.stdin })) {
  const { do: what, ...fields } = JSON.parse(line)
  try {
    if (what === 'join') member = await Member.join(fields)
    else await member[what](fields)
  } catch (error) {
    say('failed', { command: what, ...reason(error) })
  }
}
setTimeout(() => process.exit(), 3_000).unref() // a half-open connection must not keep the process
await member?.stop()
