// Links to the other members (docs/protocol/links.md): the handshake, heartbeats, and questions for
// what a member says of itself. A link is made on every connection that this device opens, and taken
// on every other: until it stands, the other side answers nothing that is for members.
import { checkMember, frame, messages, opened, sameBytes } from './papers.mjs'

export const LINK_PROTOCOL = '/meshd/link/1'
const PROTOCOL_RANGE = [1, 1]
const HANDSHAKE_MS = 10_000
const HEARTBEAT_MS = 1_000
const ANSWER_MS = 5_000
const SPARE_MS = 1_000

export class Links {
  #papers
  #recordsOf
  #onLinked
  #onEnded
  #links = new Map() // the text of a peer id to its stream
  #asked = new Map() // the text of a peer id to who awaits its records

  // `recordsOf(kinds)` returns this device's own signed records.
  constructor (papers, { recordsOf, onLinked, onEnded }) {
    this.#papers = papers
    this.#recordsOf = recordsOf
    this.#onLinked = onLinked
    this.#onEnded = onEnded
  }

  // Greet the device at the other end of a connection that we opened; resolves when the link ends.
  async dial (connection) {
    const stream = await connection.newStream(LINK_PROTOCOL, { signal: AbortSignal.timeout(HANDSHAKE_MS) })
    this.#send(stream, 'hello', this.#hello())
    await this.#run(stream, connection.remotePeer, () => {})
  }

  // Answer a device that greets us.
  async accept (stream, connection) {
    await this.#run(stream, connection.remotePeer, () => this.#send(stream, 'hello', this.#hello()))
  }

  // Return the record of this kind that a linked device gives of itself, its signature checked.
  async ask (peer, kind) {
    const name = peer.toString()
    const stream = this.#links.get(name)
    if (stream === undefined) throw new Error(`no link to ${name}`)
    const answer = new Promise((resolve, reject) => {
      this.#asked.set(name, { kind, resolve })
      setTimeout(() => reject(new Error(`${name} gave no ${kind}`)), ANSWER_MS).unref()
    })
    this.#send(stream, 'records_wanted', { versions: [[peer.publicKey.raw, kind, 0, 0]] })
    return await answer.finally(() => this.#asked.delete(name))
  }

  async #run (stream, peer, welcome) {
    const reader = messages(stream)
    const late = setTimeout(() => stream.abort(new Error('no handshake in time')), HANDSHAKE_MS)
    try {
      const first = (await reader.next()).value
      if (first === undefined) throw new Error('closed during the handshake')
      if (first.tag !== 'hello') throw new Error(`${first.tag}: ${first.fields.reason}, ${first.fields.detail}`)
      await checkMember(first.fields, this.#papers.mesh, peer.publicKey.raw)
      welcome()
    } catch (error) {
      stream.abort(error)
      return this.#onEnded(peer, error)
    } finally {
      clearTimeout(late)
    }
    await this.#live(stream, peer, reader)
  }

  async #live (stream, peer, reader) {
    const name = peer.toString()
    if (this.#isSpare(stream, peer)) setTimeout(() => stream.close(), SPARE_MS).unref()
    else this.#links.set(name, stream)
    this.#onLinked(peer)
    const beat = setInterval(() => this.#send(stream, 'heartbeat', {}), HEARTBEAT_MS)
    let failure
    try {
      for await (const message of reader) await this.#answer(stream, peer, message)
      await stream.close()
    } catch (error) {
      failure = error
      stream.abort(error)
    }
    clearInterval(beat)
    if (this.#links.get(name) === stream) this.#links.delete(name)
    this.#onEnded(peer, failure)
  }

  // What is not here, a member may leave unanswered: offers of work, and the comparing of states.
  async #answer (stream, peer, { tag, fields }) {
    if (tag === 'heartbeat' && fields.token != null) {
      this.#send(stream, 'heartbeat_acknowledged', { token: fields.token })
    } else if (tag === 'records_wanted') {
      const own = fields.versions.filter(([owner]) => sameBytes(owner, this.#papers.own))
      this.#send(stream, 'records_given', await this.#recordsOf(own.map(([, kind]) => kind)))
    } else if (tag === 'records_given') {
      await this.#settle(peer, fields.records)
    }
  }

  async #settle (peer, records) {
    const asked = this.#asked.get(peer.toString())
    for (const one of asked === undefined ? [] : records) {
      const record = await opened('record', one)
      const isOwn = [record.owner, record.signer].every((id) => sameBytes(id, peer.publicKey.raw))
      if (isOwn && record.kind === asked.kind) asked.resolve(record)
    }
  }

  // Of two links that devices dialled at the same time, that of the smaller peer id stays.
  #isSpare (stream, peer) {
    const isSmaller = Buffer.compare(this.#papers.own, peer.publicKey.raw) < 0
    return this.#links.has(peer.toString()) && (stream.direction === 'outbound') !== isSmaller
  }

  #hello () {
    const { mesh, genesis, chain } = this.#papers
    return { mesh, genesis, chain, protocol: PROTOCOL_RANGE, incarnation: 1 }
  }

  #send (stream, tag, fields) {
    if (stream.status === 'open') stream.send(frame(tag, fields))
  }
}
