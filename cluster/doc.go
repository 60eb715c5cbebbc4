// Package cluster keeps one tree of files the same on every node.
//
// A small record lives in the raft log and in memory; everything larger is a blob on local disk, named by its digest.
// Reading is io/fs and local, writing goes through the log, at whichever node, also where there is one only. It knows
// no service.
//
// It makes twelve promises. Tests cite them by number.
//
//  1. Bytes before names. No name appears before its bytes are durable on a majority of the voters.
//  2. The state is a pure function of the log. Package state reads no clock, draws no random numbers and does no I/O;
//     who proposes stamps the time.
//  3. Read your writes. A write returns, on the node that took it, after that node has applied it; it then waits for the
//     nodes that are connected, 100 ms at most.
//  4. Reads never wait for the network, except for the bytes of a blob that is not on this node yet, which stream from
//     another. A hit may be as old as this node's lag, without bound on a node that is cut off; a digest never lies. A
//     miss is confirmed with the leader: one round for all who wait, 300 ms at most; then, and for a second after a round
//     that failed, it is answered unconfirmed. The only voter has nobody to ask.
//  5. Foreign bytes are hashed before they are believed.
//  6. A blob is deleted only when nothing names it, and the order of the log decides, never time. Names, holds, claims,
//     staged batches and pins keep it. An AddBlob says at which index its bytes were confirmed, and is refused if a newer
//     collect exists. Apply never unlinks: a sweeper does, under the digest's lock, against the newest state.
//  7. Recovery is the normal path. Opening after a crash runs the code that opens after a clean stop. A lower bound of
//     what was committed is durable, so that a node that starts without a majority shows the last writes all the same.
//  8. An unknown command stops the node, loudly. It is never skipped.
//  9. A batch appears at one log entry, all of it or nothing, however large; it may be conditional on versions.
//  10. Secrets are sealed: what Seal returns may stand in the log, in snapshots and in backups; the key lies on each node
//     only, mode 0600, and leaves it only wrapped, in a backup or after a removal in the log, and to a node that joins. A
//     removed node's key opens nothing that is written after.
//  11. Exactly once. Commands carry (node, boot, sequence); the state answers a repeat with the first outcome, so a retry
//     after a lost answer never undoes what came between.
//  12. Held means: these bytes, on this disk. What is known to be damaged is not handed out, to clients or to other nodes,
//     and does not count as here. A file that may have been changed since it was last hashed is hashed before it is handed
//     out, any other one beside its first read after a start and in 30 days. The bytes come from another node, else it is
//     an error that says why, and whatever stores the blob again repairs it. Only reading finds rot, so every blob is read
//     now and then.
//
// The rooms below it keep the parts that need neither raft nor each other: raftlog the log on the disk, peer the port
// between nodes, replica the blobs, member who belongs to the cluster, archive backups. DESIGN.md is the map.
package cluster
