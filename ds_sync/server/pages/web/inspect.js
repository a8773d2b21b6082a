// Everything below that comes from the server was written by strangers: it is set as text, never as markup.
const at = (id) => document.getElementById(id)

function make(tag, content, ...classes) {
  const element = document.createElement(tag)
  element.append(content ?? "")
  element.classList.add(...classes)
  return element
}

const number = (value) => (value === null ? "?" : value.toLocaleString("en"))

function size(bytes) {
  const units = ["B", "kB", "MB", "GB"]
  let unit = 0
  for (; bytes >= 1000 && unit < units.length - 1; unit += 1) bytes /= 1000
  return `${unit ? bytes.toPrecision(3) : bytes} ${units[unit]}`
}

function ago(seconds) {
  if (seconds === null) return "before the start"
  const age = Math.max(0, Date.now() / 1000 - seconds)
  if (age < 60) return `${Math.round(age)} s ago`
  return age < 3600 ? `${Math.round(age / 60)} min ago` : new Date(seconds * 1000).toLocaleString("sv")
}

async function ask(what, fields) {
  const query = new URLSearchParams(Object.entries(fields).filter(([, value]) => value !== null && value !== ""))
  const token = sessionStorage.getItem("inspect-token")
  const headers = token ? { authorization: `Bearer ${token}` } : {}
  const response = await fetch(`/inspect/${what}?${query}`, { headers })
  at("token").hidden = response.status !== 401
  const answer = await response.json()
  if (!response.ok) throw new Error(answer.error.message)
  return answer
}

// Run, and say what went wrong.
async function attempt(work) {
  at("trouble").hidden = true
  try {
    await work()
  } catch (error) {
    at("trouble").textContent = error.message
    at("trouble").hidden = false
  }
}

const COLUMNS = {
  documents: [
    ["document", (row) => make("td", row.name, "foreign")],
    ["service", (row) => make("td", row.service, "foreign")],
    ["size", (row) => make("td", size(row.bytes), "number")],
    ["updates", (row) => make("td", number(row.updates), "number")],
    ["snapshot", (row) => make("td", row.snapshot ? size(row.snapshot.bytes) : "–", "number")],
    ["connections", (row) => make("td", number(row.readers + row.sockets), "number")],
    ["people", (row) => make("td", number(row.people), "number")],
    ["last write", (row) => make("td", ago(row.written), "number")],
  ],
  streams: [
    ["stream", (row) => make("td", row.path, "foreign")],
    ["type", (row) => make("td", row.content_type, "foreign")],
    ["size", (row) => make("td", size(row.bytes), "number")],
    ["readers", (row) => make("td", number(row.readers), "number")],
    ["state", (row) => make("td", row.closed ? "closed" : "open")],
    ["last write", (row) => make("td", ago(row.written), "number")],
  ],
}

let kind = "documents"
let next = null
let turn = 0 // answers to what is not asked any more are thrown away

async function list(more) {
  const mine = (turn += 1)
  const answer = await ask(kind, { find: at("find").value, after: more ? next : null })
  if (mine !== turn) return
  const [head, body] = at("list").children
  if (!more) {
    const row = make("tr")
    for (const [title, build] of COLUMNS[kind]) {
      const cell = make("th", title)
      if (!["document", "service", "stream", "type", "state"].includes(title)) cell.classList.add("number")
      row.append(cell)
    }
    head.replaceChildren(row)
    body.replaceChildren()
  }
  for (const item of answer[kind]) {
    const row = make("tr")
    row.tabIndex = 0
    for (const [, build] of COLUMNS[kind]) row.append(build(item))
    const open = () => attempt(() => show(item, row))
    row.addEventListener("click", open)
    row.addEventListener("keydown", (event) => event.key === "Enter" && open())
    body.append(row)
  }
  next = answer.next
  at("more").hidden = next === null
  at("nothing").hidden = body.children.length > 0
}

async function show(item, row) {
  for (const other of document.querySelectorAll("#list .here")) other.classList.remove("here")
  row.classList.add("here")
  const detail = at("detail")
  detail.hidden = false
  detail.dataset.path = item.path
  const title = detail.querySelector("h2")
  title.replaceChildren(make("span", item.name ?? item.path, "foreign"))
  const facts = [
    ["stream", item.path],
    ["next offset", item.tail],
    ["incarnation", item.incarnation],
    ["type", item.content_type],
  ]
  if (item.snapshot) facts.push(["snapshot at", `${item.snapshot.offset} (${size(item.snapshot.log_since)} of log since)`])
  if (item.sockets !== undefined) facts.push(["connections", `${item.readers} on HTTP, ${item.sockets} on WebSockets`])
  at("facts").replaceChildren(...facts.flatMap(([name, value]) => [make("dt", name), make("dd", value, "foreign", "mono")]))
  at("text").replaceChildren()
  at("people").replaceChildren()
  const [head, body] = at("records").children
  head.replaceChildren(make("tr"))
  for (const name of ["position", "size", "record"]) head.firstChild.append(make("th", name))
  body.replaceChildren()
  await records(item.path, null)
  if (item.name !== undefined) await content(item.path)
}

async function records(path, offset) {
  const answer = await ask("records", { path, offset })
  if (at("detail").dataset.path !== path) return
  const body = at("records").children[1]
  for (const record of answer.records) {
    const row = make("tr")
    row.append(make("td", number(record.position), "number"), make("td", size(record.bytes), "number"))
    const cell = make("td", record.shown, "foreign", "mono")
    if (record.cut) cell.append(make("span", " … more is not shown", "note"))
    row.append(cell)
    body.append(row)
  }
  const more = at("more-records")
  more.hidden = answer.next === null
  more.onclick = () => attempt(() => records(path, answer.next))
}

async function content(path) {
  const box = at("text")
  box.replaceChildren(make("h3", "What it says now"), make("p", "reading …", "note"))
  let answer
  try {
    answer = await ask("content", { path })
  } catch (error) {
    answer = { error: error.message }
  }
  if (at("detail").dataset.path !== path) return
  box.lastChild.remove()
  if (answer.error) box.append(make("p", answer.error, "foreign"))
  for (const root of answer.roots ?? []) {
    const cut = root.length > root.text.length ? `, the first ${number(root.text.length)} are shown` : ""
    const title = make("div", make("b", root.name, "foreign"))
    title.append(make("span", ` ${number(root.length)} characters${cut}`, "note"))
    box.append(title, make("pre", root.text, "foreign"))
  }
  if (answer.roots && !answer.roots.length) box.append(make("p", "Nothing.", "note"))
  if (answer.count > answer.roots?.length) box.append(make("p", `and ${number(answer.count - answer.roots.length)} more parts`, "note"))
  if (answer.refused) box.append(make("p", `${number(answer.refused)} updates can't be read, and are left out`, "note"))
  if (answer.people?.length) {
    at("people").append(make("h3", "Who is there"))
    for (const person of answer.people) at("people").append(make("pre", `${person.client}  ${person.state}`, "foreign"))
  }
}

function open() {
  kind = location.hash === "#streams" ? "streams" : "documents"
  for (const name of Object.keys(COLUMNS)) at(`to-${name}`).classList.toggle("here", name === kind)
  at("detail").hidden = true
  at("detail").dataset.path = ""
  attempt(() => list(false))
}

at("search").addEventListener("submit", (event) => {
  event.preventDefault()
  open()
})
at("token").addEventListener("submit", (event) => {
  event.preventDefault()
  sessionStorage.setItem("inspect-token", at("token").querySelector("input").value)
  open()
})
at("more").addEventListener("click", () => attempt(() => list(true)))
at("close").addEventListener("click", () => {
  at("detail").hidden = true
  at("detail").dataset.path = ""
})
addEventListener("hashchange", open)
open()
