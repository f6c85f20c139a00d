// Peers for the interop suite: the clients of npm, which send to our receiver and stay until killed.
//
// node npm_send.js client PORT COUNT SENT [CA]        lumberjack-client: version 2, one window an event,
//                                                     never reads ACKs; over TLS with CA
// node npm_send.js protocol PORT COUNT SENT CA WINDOW lumberjack-protocol: version 1 over TLS, announces
//                                                     one window for the connection; prints the ACKs
// SENT is the file for what is sent, one object a line.

'use strict'
const fs = require('fs')

const [kind, port, count, sent, ca, window] = process.argv.slice(2)
const events = []
for (let number = 0; number < Number(count); number++) {
  const event = { message: `line \u00e9 ${number}`, number }
  // Version 1 knows only strings.
  events.push(kind === 'protocol' ? { line: event.message, host: 'h', number: String(number) } : event)
}
fs.writeFileSync(sent, events.map((event) => JSON.stringify(event) + '\n').join(''))
const server = { host: '127.0.0.1', port: Number(port), servername: 'localhost' }
if (ca) {
  server.ca = fs.readFileSync(ca)
}

if (kind === 'client') {
  const Client = require('lumberjack-client')
  const client = new Client(server, Boolean(ca))
  // What is logged while it connects waits for the connection, and goes as one window.
  events.forEach((event) => client.log(event))
  setInterval(() => {}, 1000)
} else {
  const protocol = require('lumberjack-protocol')
  Object.assign(server, { rejectUnauthorized: true })
  const client = protocol.client(server, { windowSize: Number(window), reconnect: 60000 })
  client.once('connect', () => {
    client._socket.on('ack', (number) => console.log(`ack ${number}`))
  })
  client.on('disconnect', (error) => console.log(`disconnected ${error || ''}`))
  events.forEach((event) => client.writeDataFrame(event))
}
