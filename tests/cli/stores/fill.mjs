// How the stores beside this file were made, by the programs themselves (Hocuspocus 4.7.0; pycrdt-websocket 0.16.5, pycrdt-store 0.1.5).
// In tests/benchmarks/peers, with its packages installed (`npm ci`, `pip install -r requirements.txt`) and this file copied there:
//
//     node hocuspocus.mjs 18431 hocuspocus.sqlite         node fill.mjs hocuspocus ws://127.0.0.1:18431
//     python pycrdt_server.py 18432 ystore.sqlite         node fill.mjs pycrdt ws://127.0.0.1:18432
//
// each server being ended by Ctrl-C when fill.mjs has ended. It prints what the documents hold.
import { HocuspocusProvider, HocuspocusProviderWebsocket } from "@hocuspocus/provider"
import { WebSocket } from "ws"
import { WebsocketProvider } from "y-websocket"
import * as Y from "yjs"

const [kind, url] = process.argv.slice(2)
const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms))

function connect(name, doc) {
  if (kind === "hocuspocus") {
    const websocketProvider = new HocuspocusProviderWebsocket({ url, WebSocketPolyfill: WebSocket })
    const provider = new HocuspocusProvider({ websocketProvider, name, document: doc })
    provider.attach()
    return () => { provider.destroy(); websocketProvider.destroy() }
  }
  const provider = new WebsocketProvider(url, name, doc, { WebSocketPolyfill: WebSocket, disableBc: true })
  return () => provider.destroy()
}

for (const name of ["today", "notes/Übung"]) {
  const [one, two] = [new Y.Doc(), new Y.Doc()]
  const close = [connect(name, one), connect(name, two)]
  await wait(1000)
  const text = one.getText("body")
  for (const letter of `-${name}: Grüße 😀, and the numbers`.match(/./gu)) text.insert(text.length, letter)
  for (let number = 0; number < 70; number++) text.insert(text.length, ` ${number}`) // pycrdt-store makes a checkpoint after 100 updates
  text.delete(0, 1)
  text.format(0, 3, { bold: true })
  await wait(1000)
  two.getText("body").insert(0, "two: ")
  two.getMap("map").set("list", Y.Array.from([1, "two", { three: null }]))
  const item = new Y.XmlElement("item")
  two.getXmlFragment("page").insert(0, [item])
  item.insert(0, [new Y.XmlText("in it")])
  await wait(1500)
  console.log(name, JSON.stringify({ body: one.getText("body").toDelta(), map: one.getMap("map"), page: one.getXmlFragment("page").toString() }))
  close.forEach((end) => end())
}
await wait(4000)
process.exit(0)
