// The page of `ds-sync serve --demo`: one text, shared by whoever has the address. `npm run build` makes ds_sync/server/pages/web/demo.js of it.
import { EditorView, basicSetup } from "codemirror"
import { keymap } from "@codemirror/view"
import { yCollab, yUndoManagerKeymap } from "y-codemirror.next"
import { WebsocketProvider } from "y-websocket"
import * as Y from "yjs"
import { DeviceStore } from "./device.js"
import { ServerCopy } from "./server_copy.js"

const NAMES = ["Badger", "Heron", "Lynx", "Marten", "Otter", "Puffin", "Raven", "Wren"]

const at = (id) => document.getElementById(id)
const pick = (list) => list[crypto.getRandomValues(new Uint32Array(1))[0] % list.length]
const name = /^#[\w-]{1,64}$/.test(location.hash) ? location.hash.slice(1) : null

function begin() {
  const letters = [...crypto.getRandomValues(new Uint8Array(10))].map((byte) => "abcdefghijkmnpqrstuvwxyz23456789"[byte % 32])
  location.hash = letters.join("")
}

function show(indicator, state, words) {
  indicator.dataset.state = state
  indicator.lastChild.textContent = words
}

// Another name, another color: the editor draws a cursor's label again only when its color changes.
function color(name) {
  let hash = 7
  for (const character of name) hash = (hash * 31 + character.codePointAt(0)) % 360_007
  const channel = (offset) => {
    const turn = (offset + hash / 30) % 12
    return Math.round(255 * (0.4 - 0.26 * Math.max(-1, Math.min(turn - 3, 9 - turn, 1))))
  }
  return `#${[0, 8, 4].map((offset) => channel(offset).toString(16).padStart(2, "0")).join("")}`
}

function tame(user) {
  const color = /^#[0-9a-f]{6}$/i.test(user?.color) ? user.color : "#5b616a"
  return { name: String(user?.name ?? "somebody").slice(0, 40), color, colorLight: `${color}33` }
}

// What strangers say of themselves becomes styles and positions in the editor, which gives up on what it can't read.
function tameState(state, doc) {
  const user = tame(state?.user)
  try {
    const [anchor, head] = [state.cursor.anchor, state.cursor.head].map(Y.createRelativePositionFromJSON)
    for (const place of [anchor, head]) Y.createAbsolutePositionFromRelativePosition(place, doc)
    return { user, cursor: { anchor, head } }
  } catch {
    return { user }
  }
}

function edit() {
  const doc = new Y.Doc()
  const text = doc.getText("text")
  // Tabs of one browser meet on the server like everybody else, so that "offline" means offline in each of them.
  const url = location.origin.replace(/^http/, "ws")
  const provider = new WebsocketProvider(`${url}/v1/ws/demo`, name, doc, { connect: false, disableBc: true })
  const device = new DeviceStore(`demo/${name}`, doc)
  const server = new ServerCopy(provider)

  device.onsaved = (saved) => show(at("device"), saved ? "good" : "busy", saved ? "saved on this device" : "saving on this device …")
  let refusal = ""
  const tellServer = () => {
    if (refusal) show(at("server"), "bad", `the server refuses: ${refusal}`)
    else if (server.saved) show(at("server"), "good", "saved on the server")
    else if (provider.wsconnected) show(at("server"), "busy", "on its way to the server …")
    else show(at("server"), "idle", at("offline").checked ? "offline" : "no server: trying again …")
  }
  server.onsaved = tellServer
  provider.on("status", tellServer)
  provider.on("closed", ({ code, reason }) => {
    refusal = reason || String(code)
    tellServer()
  })
  at("offline").addEventListener("change", () => {
    refusal = ""
    if (at("offline").checked) provider.disconnect()
    else provider.connect()
    tellServer()
  })

  const me = { name: localStorage.getItem("ds-sync-demo-name") ?? pick(NAMES) }
  const introduce = () => provider.awareness.setLocalStateField("user", tame({ ...me, color: color(me.name) }))
  at("me").value = me.name
  at("me").addEventListener("input", () => {
    me.name = at("me").value.slice(0, 40)
    localStorage.setItem("ds-sync-demo-name", me.name)
    introduce()
  })
  // This stands before the editor's own listener.
  provider.awareness.on("change", () => {
    const { states } = provider.awareness
    const others = [...states.keys()].filter((client) => client !== doc.clientID)
    for (const client of others) states.set(client, tameState(states.get(client), doc))
    at("others").replaceChildren(
      ...others.map((client) => {
        const { user } = states.get(client)
        const badge = document.createElement("span")
        badge.textContent = user.name
        badge.style.background = user.color
        return badge
      }),
    )
  })
  introduce()

  const undo = new Y.UndoManager(text)
  new EditorView({
    parent: at("editor"),
    extensions: [
      keymap.of(yUndoManagerKeymap),
      basicSetup,
      EditorView.lineWrapping,
      EditorView.contentAttributes.of({ "aria-label": "the text" }),
      yCollab(text, provider.awareness, { undoManager: undo }),
    ],
  }).focus()
  at("copy").addEventListener("click", async () => {
    await navigator.clipboard.writeText(location.href)
    at("copy").textContent = "Copied"
  })
  at("name").textContent = name
  device.loaded.then(() => provider.connect())
}

addEventListener("hashchange", () => location.reload())
at("welcome").hidden = name !== null
at("page").hidden = name === null
if (name === null) at("begin").addEventListener("click", begin)
else edit()
