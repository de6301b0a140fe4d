// js-libp2p 3.3 is written for node 22; on node 20 only this function is missing.
Promise.withResolvers ??= function withResolvers () {
  let resolve, reject
  const promise = new this((onResolve, onReject) => { resolve = onResolve; reject = onReject })
  return { promise, resolve, reject }
}
