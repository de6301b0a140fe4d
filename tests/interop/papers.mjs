// What the members of a mesh show and say, read and checked as docs/protocol/ has it: frames, signed
// bodies, invitations, certificate chains. Shares no line with the Python implementation.
import { publicKeyFromRaw } from '@libp2p/crypto/keys'
import { peerIdFromPublicKey } from '@libp2p/peer-id'
import { decode, encode } from '@msgpack/msgpack'
import { blake3 } from '@noble/hashes/blake3.js'
import { base32 } from 'multiformats/bases/base32'

const FRAME_BYTES_MAX = 1 << 20
const VERSION = 1
const LENGTH_BYTES = 4
const INVITATION_PREFIX = 'meshd1'
const CHECKSUM_BYTES = 4
const CHAIN_LENGTH_MAX = 8
const ENCODING = { useBigInt64: true } // counters and tokens go up to 2^63 - 1

export const packed = (value) => encode(value, ENCODING)
export const unpacked = (bytes) => decode(bytes, ENCODING)
export const sameBytes = (one, other) => Buffer.compare(one, other) === 0
export const peerText = (peer) => peerIdFromPublicKey(publicKeyFromRaw(peer)).toString()

// Frames on a stream: a length of four bytes, the version, [tag, body].

export function frame (tag, fields) {
  const envelope = packed([tag, packed(fields)])
  const bytes = Buffer.alloc(LENGTH_BYTES + 1 + envelope.length)
  bytes.writeUInt32BE(1 + envelope.length)
  bytes[LENGTH_BYTES] = VERSION
  bytes.set(envelope, LENGTH_BYTES + 1)
  return bytes
}

export async function * messages (stream) {
  let buffered = Buffer.alloc(0)
  for await (const chunk of stream) {
    buffered = Buffer.concat([buffered, chunk.subarray()])
    while (buffered.length >= LENGTH_BYTES) {
      const end = LENGTH_BYTES + buffered.readUInt32BE()
      if (end > LENGTH_BYTES + FRAME_BYTES_MAX) throw new Error(`a frame of ${end} bytes`)
      if (buffered.length < end) break
      yield message(buffered.subarray(LENGTH_BYTES, end))
      buffered = buffered.subarray(end)
    }
  }
  if (buffered.length > 0) throw new Error('the stream ended inside a frame')
}

function message (bytes) {
  if (bytes[0] !== VERSION) throw new Error(`a frame of version ${bytes[0]}`)
  const [tag, body] = unpacked(bytes.subarray(1))
  return { tag, fields: unpacked(body) }
}

// Signed bodies: [body, signer, signature] over the domain, a zero and the body.

const signingBytes = (domain, body) => Buffer.concat([Buffer.from(`meshd/${domain}/1\0`), body])

export async function signed (domain, fields, key) {
  const body = packed(fields)
  return [body, key.publicKey.raw, await key.sign(signingBytes(domain, body))]
}

export async function opened (domain, [body, signer, signature]) {
  if (!await publicKeyFromRaw(signer).verify(signingBytes(domain, body), signature)) {
    throw new Error(`a ${domain} is not signed by ${peerText(signer)}`)
  }
  return { ...unpacked(body), signer }
}

// Membership.

const derived = (context, bytes) => blake3(bytes, { context: Buffer.from(`meshd 2026 ${context}`) })

export const meshText = (mesh) => base32.baseEncode(mesh)

export function invitationFrom (token) {
  const raw = base32.baseDecode(token.slice(INVITATION_PREFIX.length))
  const [checksum, body] = [raw.subarray(0, CHECKSUM_BYTES), raw.subarray(CHECKSUM_BYTES)]
  if (!sameBytes(checksum, derived('invitation checksum', body).subarray(0, CHECKSUM_BYTES))) {
    throw new Error('the invitation was cut or mistyped')
  }
  return unpacked(body)
}

// Throws unless `genesis` founded `mesh` and `chain` leads from `subject` to its founder.
export async function checkMember ({ genesis, chain }, mesh, subject) {
  const founding = await opened('genesis', genesis)
  if (!sameBytes(derived('genesis', genesis[0]), mesh)) throw new Error('the genesis of another mesh')
  const certificates = await Promise.all(chain.map((link) => opened('certificate', link)))
  if (certificates.length > CHAIN_LENGTH_MAX) throw new Error('a chain that is too long')
  if (new Set(certificates.map((one) => peerText(one.subject))).size < chain.length) {
    throw new Error('a chain that names a device twice')
  }
  let expected = subject
  for (const [place, certificate] of certificates.entries()) {
    if (!sameBytes(certificate.mesh, mesh)) throw new Error('a certificate of another mesh')
    if (!sameBytes(certificate.subject, expected)) throw new Error(`certificate ${place} is for another`)
    if (place > 0 && !certificate.roles.includes('admin')) throw new Error('an issuer that is no admin')
    expected = certificate.signer
  }
  const isFounders = [founding.signer, founding.founder, certificates.at(-1)?.subject]
    .every((peer) => peer !== undefined && sameBytes(peer, expected))
  if (!isFounders) throw new Error('a chain that does not end at the founder')
}
