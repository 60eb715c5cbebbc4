// Package process runs DNS in a separate process, so that nothing else on the node can starve it, and so that packets
// from strangers are parsed where there are no keys, no data and no privilege.
//
// [Serve] is that process: it has the DNS sockets and a [dnssrv.Server]. [Link] is the daemon's end: it has the methods
// of the server that the daemon needs, and sends each [dnssrv.Update] to the process. They are connected by one Unix
// stream socket with bounded frames (frame.go): a socket pair to a process that the daemon started ([Child]), or a
// connection to one that the service manager started ([Connect]).
//
// What it promises:
//
//   - No answer waits for the daemon. If the daemon is slow, stopped or dead, misses and statistics are lost (and
//     counted), never an answer.
//   - The daemon never waits for the process where it answers clients. [Link.Apply] waits a bounded time for the
//     confirmation, so that a client that sets a name can resolve it at once.
//   - A table appears as a whole: an [dnssrv.Update] of many frames becomes visible at one moment.
//   - Without the daemon, the process answers from the last table. After five beats without a word from the daemon, its
//     node is removed from the answers, unless no other node is healthy; it returns with the next beat.
//   - A process that starts reads no question before it has a table: its predecessor's, stored with the service
//     manager, or the daemon's. Questions wait in the socket meanwhile, but not longer than [waitForTable].
//   - Each end checks what the other one sends. A frame that breaks a rule ends the connection, and a new one begins
//     with the whole table.
package process
