// What a ds-sync server has of a document, for a y-websocket provider: so that a page can say "saved on the server" and mean it.
//
//   const copy = new ServerCopy(provider)
//   copy.onsaved = (saved) => { indicator.textContent = saved ? "saved on the server" : "not saved yet" }
//
// ds-sync sends a client only what is on its disk, the client's own edits included. All of that is put together here, in a second Y.Doc, from
// nothing at each connection, because a server may have been set back. What the page's document has beyond it is not saved. Should it stay
// so for a while on a living connection, it is sent again; Yjs updates may come twice.
import * as decoding from "lib0/decoding"
import * as encoding from "lib0/encoding"
import * as sync from "y-protocols/sync"
import * as Y from "yjs"

const MESSAGE_SYNC = 0
const AGAIN_AFTER = 3000 // milliseconds

export class ServerCopy {
  constructor(provider) {
    this.provider = provider
    this.doc = provider.doc
    this.saved = false
    this.onsaved = () => {}
    this.theirs = new Y.Doc()
    const read = provider.messageHandlers[MESSAGE_SYNC]
    provider.messageHandlers[MESSAGE_SYNC] = (encoder, decoder, from, isServer, type) => {
      if (isServer) this.take(decoder.arr.subarray(decoder.pos))
      read(encoder, decoder, from, isServer, type)
    }
    provider.on("status", ({ status }) => (status === "connected" ? this.begin() : this.tell(false)))
    this.doc.on("update", (_, origin) => origin === provider || this.tell(false))
    setInterval(() => this.repeat(), AGAIN_AFTER / 3)
  }

  begin() {
    this.theirs.destroy()
    this.theirs = new Y.Doc()
    this.tell(false)
    this.since = Date.now()
    this.send((encoder) => sync.writeSyncStep1(encoder, this.theirs))
  }

  take(message) {
    const decoder = decoding.createDecoder(message)
    if (decoding.readVarUint(decoder) !== sync.messageYjsSyncStep1) Y.applyUpdate(this.theirs, decoding.readVarUint8Array(decoder))
    clearTimeout(this.soon)
    this.soon = setTimeout(() => this.look(), 20) // when the page's document has it, too, and what else has come
  }

  look() {
    if (this.provider.wsconnected) this.tell(this.has(this.rest()))
  }

  // What the page's document has beyond what the server has; deletions always.
  rest() {
    return Y.encodeStateAsUpdate(this.doc, Y.encodeStateVector(this.theirs))
  }

  has(update) {
    return Y.snapshotContainsUpdate(Y.snapshot(this.theirs), update)
  }

  repeat() {
    if (this.saved || !this.provider.wsconnected || Date.now() - this.since < AGAIN_AFTER) return
    this.since = Date.now()
    const rest = this.rest()
    if (this.has(rest)) return this.tell(true)
    this.send((encoder) => sync.writeUpdate(encoder, rest))
    this.send((encoder) => sync.writeSyncStep1(encoder, this.theirs))
  }

  send(write) {
    const encoder = encoding.createEncoder()
    encoding.writeVarUint(encoder, MESSAGE_SYNC)
    write(encoder)
    this.provider.ws.send(encoding.toUint8Array(encoder))
  }

  tell(saved) {
    if (this.saved && !saved) this.since = Date.now()
    if (this.saved !== saved) this.onsaved((this.saved = saved))
  }
}
