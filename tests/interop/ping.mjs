// A foreign client of a meshd device, written with js-libp2p.
//
//   node --import ./polyfill.mjs ping.mjs ADDRESS PSKFILE [PROTOCOL [HEX]]
//
// ADDRESS is a multiaddr with the device's id (/ip4/127.0.0.1/tcp/4001/p2p/12D3Koo...), PSKFILE holds
// the network key in libp2p's text form, or is "-" for none. Pings the device three times, reads what
// it says about itself, and with PROTOCOL opens a stream of it, sends a few bytes, or those in HEX,
// and reports what comes of that. Prints one JSON object a line; exits 0, or 1 if no connection came about.
import { readFile } from 'node:fs/promises'
import { identify } from '@libp2p/identify'
import { noise } from '@libp2p/noise'
import { ping } from '@libp2p/ping'
import { preSharedKey } from '@libp2p/pnet'
import { tcp } from '@libp2p/tcp'
import { yamux } from '@libp2p/yamux'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'

const DIAL_MS = 5_000
const STREAM_MS = 8_000

const say = (event, details = {}) => console.log(JSON.stringify({ event, ...details }))
const reason = (error) => ({ error: error.name, message: String(error.message).split('\n')[0] })

async function start (pskFile) {
  const options = pskFile === '-' ? {} : { connectionProtector: preSharedKey({ psk: await readFile(pskFile) }) }
  return await createLibp2p({
    ...options,
    addresses: { listen: [] },
    transports: [tcp()],
    connectionEncrypters: [noise()],
    streamMuxers: [yamux()],
    connectionGater: { denyDialMultiaddr: () => false },
    services: { identify: identify(), ping: ping() }
  })
}

async function tryProtocol (node, peer, protocol, sent) {
  let stream
  try {
    stream = await node.dialProtocol(peer, protocol, { signal: AbortSignal.timeout(STREAM_MS) })
  } catch (error) {
    return say('stream', { protocol, result: 'refused', ...reason(error) })
  }
  const late = setTimeout(() => stream.abort(new Error('no answer in time')), STREAM_MS)
  let received = ''
  try {
    stream.send(sent)
    for await (const chunk of stream) received += Buffer.from(chunk.subarray()).toString('hex')
    say('stream', { protocol, result: 'ended', received })
  } catch (error) {
    const result = error.name === 'StreamResetError' ? 'reset' : 'failed'
    say('stream', { protocol, result, received, ...reason(error) })
  } finally {
    clearTimeout(late)
  }
}

const [address, pskFile, protocol, hex = '0568656c6c6f'] = process.argv.slice(2)
if (pskFile === undefined) {
  console.error('usage: node --import ./polyfill.mjs ping.mjs ADDRESS PSKFILE|- [PROTOCOL [HEX]]')
  process.exit(2)
}
const node = await start(pskFile)
try {
  const connection = await node.dial(multiaddr(address), { signal: AbortSignal.timeout(DIAL_MS) })
  const peer = connection.remotePeer
  say('connected', { peer: peer.toString(), encryption: connection.encryption, multiplexer: connection.multiplexer })
  for (let count = 0; count < 3; count++) {
    say('ping', { rtt_ms: await node.services.ping.ping(peer, { signal: AbortSignal.timeout(DIAL_MS) }) })
  }
  const { protocols, agentVersion } = await node.services.identify.identify(connection)
  say('identified', { protocols, agent: agentVersion })
  if (protocol !== undefined) await tryProtocol(node, peer, protocol, Buffer.from(hex, 'hex'))
  say('done')
} catch (error) {
  say('failed', reason(error))
  process.exitCode = 1
}
setTimeout(() => process.exit(), 2_000).unref() // a half-open connection must not keep the process
await node.stop()
