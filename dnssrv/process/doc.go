// Package process runs DNS in a process of its own, so that nothing else on the node can starve it, and so that what
// strangers send is parsed where there are no keys, no data and no privilege.
//
// [Serve] is that process: it holds the DNS sockets and a [dnssrv.Server]. [Link] is the daemon's end: it has the
// methods of the server that the daemon needs, and carries [dnssrv.Update] to the process. Between them is one Unix
// stream socket with bounded frames (frame.go): a pair of sockets to a process that the daemon started ([Child]), or a
// connection to one that the service manager started ([Connect]).
//
// What it promises:
//
//   - No answer waits for the daemon. A daemon that is slow, stopped or gone costs misses and statistics, which are
//     counted, and never an answer.
//   - The daemon never waits for the process where it answers clients. [Link.Apply] waits a bounded time for the
//     confirmation, so that who sets a name can ask for it at once.
//   - A table appears whole: an [dnssrv.Update] of many frames is visible at one moment.
//   - Without the daemon, the last table is answered from. When nothing was heard of the daemon for five beats, its node
//     is taken out of the answers, unless no other node is healthy; it is back with the next beat.
//   - A process that starts reads no question before it has a table: the one that its predecessor left with the service
//     manager, or the daemon's. Questions wait in the socket meanwhile, but not for longer than [waitForTable].
//   - Whatever one end sends, the other one checks it. A frame that breaks a rule ends the connection, and a new one
//     begins with the whole table.
package process
