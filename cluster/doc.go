// Package cluster keeps one tree of files the same on every node.
//
// A small record is stored in the raft log and in memory; larger content is a blob on the local disk, named by its
// digest. Reads use io/fs and are local; writes go through the log, at any node. The package knows no service.
//
// It makes twelve promises. Tests cite them by number.
//
//  1. Bytes before names. No name appears before its bytes are durable on a majority of the voters.
//  2. The state is a pure function of the log. Package state reads no clock, draws no random numbers and does no I/O;
//     the proposer stamps the time.
//  3. Read your writes. A write returns, on the node that took it, after that node has applied it; it then waits for
//     the
//     nodes that are connected, 100 ms at most.
//  4. Reads never wait for the network, except for the bytes of a blob that is not on this node yet, which stream from
//     another. A hit may be as old as this node's lag, without bound on a node that is cut off; its digest is always
//     right. A miss is confirmed with the leader: one round for all waiting readers, 300 ms at most; then, and for a
//     second after a failed round, it is answered unconfirmed. The only voter has no other node to ask.
//  5. Bytes from outside are hashed before they are used.
//  6. A blob is deleted only when nothing refers to it, and the order of the log decides, never time. Names, holds,
//     claims, staged batches and pins keep it. An AddBlob has the index at which its bytes were confirmed, and is
//     refused if a newer collect exists. Apply never unlinks: a sweeper does, under the digest's lock, after a check of
//     the newest state.
//  7. Recovery is the normal path. Opening after a crash runs the code that opens after a clean stop. A lower bound of
//     what was committed is durable, so that a node that starts without a majority still shows the last writes.
//  8. An unknown command stops the node with an error. It is never skipped.
//  9. A batch appears at one log entry, all of it or nothing, however large; it may be conditional on versions.
//  10. Secrets are sealed: the output of Seal may be stored in the log, in snapshots and in backups. The key is stored
//     only on each node, mode 0600, and leaves it only wrapped (in a backup, or in the log after a removal) or to a
//     node that joins. A removed node's key opens nothing that is written after the removal.
//  11. Exactly once. Commands carry (node, boot, sequence); the state answers a repeat with the first outcome, so a
//     retry
//     after a lost answer never undoes writes that came between.
//  12. Held means: these bytes, on this disk. A blob that is known to be damaged is not served to clients or other
//     nodes,
//     and counts as missing. A file that may have changed since it was last hashed is hashed before it is served; any
//     other file is hashed during its first read after a start and in 30 days. The bytes then come from another node;
//     without one the read fails with the reason, and storing the blob again repairs it. Only reading finds rot, so
//     every blob is read periodically.
//
// The rooms below it have the parts that need neither raft nor each other: raftlog the log on the disk, peer the port
// between nodes, replica the blobs, member the membership, archive backups. DESIGN.md is the overview.
package cluster
