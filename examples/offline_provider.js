// The official Yjs provider, made safe: edits typed while it was not connected, or in a request that failed, reach the server too; and it
// comes back when the server says 410 (what was read has been trimmed, or the server was set back to a backup).
//   const provider = new OfflineProvider({ doc, baseUrl: "http://localhost:4437/v1/yjs/my-service", docId: "my-document" })
//   provider.onsaved = (saved) => { indicator.textContent = saved ? "saved on the server" : "not saved yet" }
// How: it reads the document a second time, into a Y.Doc of its own, and so knows what the server *has*. What is here beyond that is posted;
// twice does no harm. Edits live in memory until saved: add y-indexeddb for the rest.
import { YjsProvider } from "@durable-streams/y-durable-streams"
import * as Y from "yjs"
export class OfflineProvider {
  constructor({ checkEvery = 2000, ...options }) { // those of YjsProvider, and the milliseconds between two looks at what the server has
    this.provider = new YjsProvider({ ...options, connect: false })
    this.provider.on("error", () => {}) // what went wrong shows in `saved`, and is tried again
    // saved: whether the server has everything this document has, deletions too; deleted: whether somebody deleted it there
    const { doc, baseUrl, docId, awareness, headers = {} } = options
    const url = `${baseUrl.replace(/\/$/, "")}/docs/${docId}`
    Object.assign(this, { doc, url, headers, checkEvery, saved: false, deleted: false, failures: 0, unread: false, onsaved() {} })
    this.provider.on("status", (status) => { // disconnecting takes the page's own presence away, connecting gives it back
      if (status === "disconnected") this.presence = awareness?.getLocalState()
      if (status === "connecting" && this.presence) awareness.setLocalState(awareness.getLocalState() ?? this.presence)
    })
    this.forget()
    // What YjsProvider received ("server") is there, unless the server is set back before it was read here, too.
    this.edited = (update, origin) => (origin === "server" ? (this.unread = true) : this.tell(false))
    this.doc.on("update", this.edited)
    if (options.connect !== false) this.connect()
  }

  connect() {
    if (!this.running) this.loop = this.run()
  }

  async disconnect() {
    this.running = false
    this.wake?.()
    await this.within(this.provider.disconnect())
    await this.loop
  }

  async destroy() {
    await this.disconnect()
    this.doc.off("update", this.edited)
    for (const each of [this.theirs, this.provider]) each.destroy()
  }

  forget() {
    this.theirs?.destroy()
    this.theirs = new Y.Doc() // what the server has, as far as `offset`
    this.offset = "snapshot"
  }

  tell(saved) {
    if (this.saved !== saved) this.onsaved((this.saved = saved))
  }

  async run() {
    for (this.running = true; this.running; ) {
      try {
        await this.check()
        this.failures = 0
      } catch (error) {
        this.failures += 1
        if (error.deleted) [this.deleted, this.running] = [true, false] // connecting would bring it back; what is here stays here
        this.tell(false)
        if (error.status === 410) this.forget() // our place is no place in this history any more: both readers begin again
        if (error.deleted || error.status === 410) {
          await this.within(this.provider.disconnect())
          continue
        }
      }
      const pause = this.failures ? Math.random() * Math.min(30_000, this.checkEvery * 2 ** this.failures) : this.checkEvery
      if (this.running) await this.within(new Promise((resolve) => (this.wake = resolve)), null, pause)
    }
  }

  async within(promise, otherwise, limit = 5000) {
    let timer
    const late = new Promise((resolve) => (timer = setTimeout(() => resolve(otherwise?.()), limit)))
    await Promise.race([promise, late]).finally(() => clearTimeout(timer))
  }

  async check() {
    if (this.offset !== "snapshot") await this.read() // before connecting, which would make a document that was deleted
    // It waits for ever where the server went away in the middle of something: then it begins again at the next look.
    if (!this.provider.connected) await this.within(this.provider.connect(), () => void this.provider.disconnect())
    if (this.saved && !this.unread) return
    this.unread = false
    if (this.provider.connected) await this.within(this.provider.flush()) // it may be on its way
    await this.read()
    const rest = this.missing()
    this.tell(!rest)
    if (!rest) return
    await this.request("", { method: "POST", body: frame(rest), headers: { "content-type": "application/octet-stream" } })
    await this.read()
    this.tell(!this.missing())
  }

  async read() {
    for (let upToDate = false; !upToDate; ) {
      const response = await this.request(`?offset=${this.offset}`)
      const data = new Uint8Array(await response.arrayBuffer())
      // fetch has followed the redirect of "snapshot": to a snapshot, which is one bare update, or to the beginning.
      const isSnapshot = new URL(response.url).searchParams.get("offset").endsWith("_snapshot")
      for (const update of isSnapshot ? [data] : frames(data)) {
        try {
          for (const doc of [this.theirs, this.doc]) Y.applyUpdate(doc, update, "server") // to ours, too: the provider may hang on a 410
        } catch (error) {
          console.warn(`${this.url}: ${update.length} bytes that are no Yjs update are skipped`, error)
        }
      }
      this.offset = response.headers.get("stream-next-offset")
      upToDate = !isSnapshot && response.headers.get("stream-up-to-date") === "true"
    }
  }

  // What the document has and the server has not, or null.
  missing() {
    const both = new Y.Doc()
    let news = false
    Y.applyUpdate(both, Y.encodeStateAsUpdate(this.theirs))
    both.on("update", () => (news = true))
    const rest = Y.encodeStateAsUpdate(this.doc, Y.encodeStateVector(this.theirs))
    Y.applyUpdate(both, rest)
    both.destroy()
    return news ? rest : null
  }

  async request(query, options = {}) {
    const headers = { ...options.headers }
    for (const [name, value] of Object.entries(this.headers)) headers[name] = typeof value === "function" ? await value() : value
    const response = await fetch(this.url + query, { ...options, headers, cache: "no-store" })
    if (response.ok) return response
    const { status } = response
    const deleted = status === 404 && response.headers.has("stream-incarnation") // of the life that was ended
    throw Object.assign(new Error(`${status} from ${this.url}`), { status, deleted })
  }
}

// A frame is the length, seven bits a byte, lowest first, and the update.
function frame(update) {
  let [head, size] = [[], update.length]
  for (; size > 127; size = Math.floor(size / 128)) head.push((size % 128) | 128)
  return new Uint8Array([...head, size, ...update])
}
function* frames(data) {
  for (let at = 0; at < data.length; ) {
    let size = 0
    for (let scale = 1, byte = 128; byte > 127; scale *= 128) size += ((byte = data[at++]) % 128) * scale
    yield data.subarray(at, (at += size))
  }
}
