// A browser's way to a document: node join.mjs PROVIDER URL NAME LENGTH. Prints the seconds from connecting to having the whole text.
import { HocuspocusProvider, HocuspocusProviderWebsocket } from "@hocuspocus/provider"
import { YjsProvider } from "@durable-streams/y-durable-streams"
import { WebSocket } from "ws"
import { WebsocketProvider } from "y-websocket"
import * as Y from "yjs"

const [kind, url, name, length] = process.argv.slice(2)
const doc = new Y.Doc()
const text = doc.getText("text")
const began = performance.now()
doc.on("update", () => {
  if (text.length < Number(length)) return
  if (text.length > Number(length)) throw new Error(`${text.length} characters, not ${length}`)
  process.stdout.write(`${(performance.now() - began) / 1000}\n`, () => process.exit(0))
})
if (kind === "document URL") {
  new YjsProvider({ doc, baseUrl: url, docId: name }).on("error", (error) => console.error(error))
} else if (kind === "hocuspocus") {
  const websocketProvider = new HocuspocusProviderWebsocket({ url, WebSocketPolyfill: WebSocket })
  new HocuspocusProvider({ websocketProvider, name, document: doc }).attach()
} else {
  new WebsocketProvider(url, name, doc, { WebSocketPolyfill: WebSocket, disableBc: true })
}
