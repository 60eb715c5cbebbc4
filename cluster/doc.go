// Package cluster keeps one tree of files the same on every node.
//
// A small record lives in the raft log and in memory; everything larger is a blob on local disk, named by its digest. Reading is io/fs and local,
// writing goes through the log, also where there is one node only. It knows no service.
//
// It makes eleven promises. Tests cite them by number.
//
//  1. Bytes before names. No name appears before its bytes are durable on a majority of the voters.
//  2. The state is a pure function of the log. Package state reads no clock, draws no random numbers and does no I/O; who proposes stamps the time.
//  3. Read your writes. A write returns, on the node that took it, after that node has applied it.
//  4. Reads never wait for the network, except for the bytes of a blob that is not on this node yet. A hit may be as old as this node's lag;
//     a digest never lies. (Confirming misses with the leader comes with the second node: the only voter has nothing to ask.)
//  5. Foreign bytes are hashed before they are believed.
//  6. A blob is deleted only when nothing names it, and the order of the log decides, never time. Names, holds, claims, staged batches and pins keep it.
//     An AddBlob says at which index its bytes were confirmed, and is refused if a newer collect exists. Apply never unlinks: a sweeper does, under the
//     digest's lock, against the newest state.
//  7. Recovery is the normal path. Opening after a crash runs the code that opens after a clean stop. A lower bound of what was committed is durable, so
//     that a node that starts without a majority shows the last writes all the same.
//  8. An unknown command stops the node, loudly. It is never skipped.
//  9. A batch appears at one log entry, all of it or nothing, however large; it may be conditional on versions.
//  10. Secrets are sealed: what Seal returns may stand in the log, in snapshots and in backups; the key lies on each node only, mode 0600,
//     and leaves it only wrapped, in a backup.
//  11. Exactly once. Commands carry (node, boot, sequence); the state answers a repeat with the first outcome, so a retry after a lost answer never undoes
//     what came between.
package cluster
