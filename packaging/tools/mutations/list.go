package main

// mutation is one way to break a promise of the tree (cluster/doc.go).
type mutation struct {
	name  string // short, unique: -run matches it
	what  string // what is wrong then, for the report
	file  string // below the repository
	old   string // occurs in the file exactly once
	new   string
	tests []test // each of them must fail
}

// test is one run of go test.
type test struct {
	pkg string // below the repository
	run string // as -run takes it; with a slash and a seed for one history
}

const (
	cluster = "cluster"
	state   = "cluster/state"
	blob    = "cluster/blob"
)

// mutations are the list. The text to be replaced is short and shows what the line is for, so that it survives changes
// around it. A mutation whose text is gone is an error; it has to be updated here together with the change.
var mutations = []mutation{
	// 1. Bytes before names.
	{
		"acknowledge-early", "1: a push is acknowledged with one copy less than a majority",
		"cluster/replica/replicate.go", "have < need; {", "have < need-1; {",
		[]test{{cluster, "^TestAcknowledgedByAMajority$"}, {cluster, "^TestPushIsOnAMajorityWhenAnswered$"}},
	},
	{
		"majority-of-three", "1: two nodes are taken for a majority of any number",
		"cluster/member.go", "return voters, len(voters)/2 + 1", "return voters, min(2, len(voters)/2+1)",
		[]test{{cluster, "^TestAcknowledgedByAMajority$"}},
	},
	{
		"confirm-without-bytes", "1: a node confirms bytes that it does not have",
		"cluster/replica/replicate.go", "if _, err := s.dir.Durable(digest); err != nil {",
		"if _, err := s.dir.Durable(digest); err != nil && false {",
		[]test{{cluster, "^TestConfirmsOnlyWhatItHas$"}, {cluster, "^TestAcknowledgedByAMajority$"}},
	},
	{
		"blob-not-synced", "1: a blob gets its name before its bytes are on the disk",
		"cluster/blob/writer.go", "if err := w.f.Sync(); err != nil {", "if err := error(nil); err != nil {",
		[]test{{cluster, "^TestPromise1BytesBeforeNames$"}, {blob, "^TestPowerCut$"}},
	},
	{
		"name-not-synced", "1: the directory of a new blob is not synced",
		"cluster/blob/dir.go", "if err = d.fs.SyncDir(dir); err != nil {", "if err = error(nil); err != nil {",
		[]test{{cluster, "^TestPromise1BytesBeforeNames$"}, {blob, "^TestPowerCut$"}},
	},
	{
		"group-not-synced", "1: the blobs of a group get their names before their bytes are durable",
		"cluster/blob/group.go", "if g.d.volume.sync() {", "if true {",
		[]test{{blob, "^TestPowerCutInGroups$"}},
	},
	{
		"names-of-group-not-synced", "1: the directories of a group are not synced",
		"cluster/blob/group.go", "if !g.d.volume.sync() {", "if false {",
		[]test{{blob, "^TestPowerCutInGroups$"}},
	},
	{
		"seen-is-durable", "1: a name that is seen on the disk counts as durable",
		"cluster/blob/dir.go", "done := d.stable[dir]", "done := true",
		[]test{{cluster, "^TestConfirmedNameNotSynced$"}},
	},
	// 2. The state is a pure function of the log.
	{
		"difference-is-not-told", "2: nodes whose states differ do not say so",
		"cluster/differ.go", "own != \"\" && own != b.Sum && !differed,", "own == \"-\" && !differed,",
		[]test{{cluster, "^TestDifferentStatesAreTold$"}},
	},
	{
		"sum-without-the-command", "2: the running digest of the state does not cover what was applied",
		"cluster/state/sum.go", "\th.Write(cmd)\n", "",
		[]test{{state, "^TestSumTellsReplicasApart$"}},
	},
	{
		"snapshot-forgets-the-sum", "2: a snapshot does not carry on the running digest",
		"cluster/state/loader.go", "\t\tcopy(l.s.sum[:], h.Sum)\n", "\t\tl.s.sum[0] = 1\n",
		[]test{{state, "^TestSumInSnapshots$"}},
	},
	{
		"told-more-than-it-has", "2: a follower takes for committed what it has not acknowledged",
		"cluster/commits.go", "switch upTo := min(committed, k.index); {", "switch upTo := committed; {",
		[]test{{cluster, "^TestFollowersAreToldTheTruth$"}},
	},
	{
		"told-of-another-term", "2: a leader tells what is committed to who acknowledged it in an earlier term",
		"cluster/commits.go", "case !leads || k.header.Term != term ||", "case !leads ||",
		[]test{{cluster, "^TestFollowersAreToldTheTruth$"}},
	},
	// 3. Read your writes.
	{
		"answer-before-it-shows", "3: a write is answered before it can be read on this node",
		"cluster/machine.go", "m.view.Store(m.st.Clone())\n\tif notify",
		"if m.view.Load() == nil || m.st.Index()%2 == 0 {\n\t\tm.view.Store(m.st.Clone())\n\t}\n\tif notify",
		[]test{{cluster, "^TestPromise3ReadYourWrites$"}},
	},
	{
		"not-shared", "3: a write does not wait for the nodes that are connected",
		"cluster/peer/beat.go", "if !l.up || l.slow || l.beat.Applied >= index {", "if !l.up || l.slow || true {",
		[]test{{cluster, "^TestAloneAfterPowerCut$"}},
	},
	{
		"commit-not-passed-on", "3: what is committed waits for raft's next turn, and connected nodes show it later",
		"cluster/commits.go", "if msg != nil && !k.c.watch.Hung() {", "if msg == nil && again && false {",
		[]test{{cluster, "^TestCommitIsPassedOn$"}},
	},
	// 4. Misses are confirmed with the leader.
	{
		"no-verify-leader", "4: a deposed leader confirms misses",
		"cluster/reading.go", "return c.raft.VerifyLeader()", "return c.raft.GetConfiguration()",
		[]test{{cluster, "^TestCutOffLeaderConfirmsNoMiss$"}, {cluster, "^TestDeposedLeaderConfirmsNoMiss$"}},
	},
	{
		"no-barrier", "4: a new leader confirms misses before it knows what the one before had acknowledged",
		"cluster/reading.go", "if c.reading.term.Load() != term {", "if c.reading.term.Load() != term && false {",
		[]test{{cluster, "^TestNewLeaderConfirmsNoMissTooEarly$"}},
	},
	{
		"unsure-is-sure", "4: a miss counts as confirmed although the round has failed",
		"cluster/reading.go", "return mine.ok\n\tcase <-wait.C:\n\t\treturn false",
		"return true\n\tcase <-wait.C:\n\t\treturn true",
		[]test{{cluster, "^TestCutOffLeaderConfirmsNoMiss$"}, {cluster, "^TestDeposedLeaderConfirmsNoMiss$"}},
	},
	// 5. Bytes from other nodes are hashed.
	{
		"bytes-not-hashed", "5: bytes get the name that somebody says",
		"cluster/blob/writer.go", "if digest != \"\" && got != digest {\n\t\treturn \"\", false, fmt.Errorf(\"the " +
			"bytes",
		"if digest != \"\" {\n\t\tgot = digest\n\t}\n\tif false {\n\t\treturn \"\", false, fmt.Errorf(\"the bytes",
		[]test{{cluster, "^TestWrongBytes$"}, {blob, "^TestPromise5WrongBytesAreNoBlob$"}},
	},
	{
		"fetch-not-hashed", "5: what another node sends is taken for what was asked for",
		"cluster/replica/fetch.go", "f.w.Place(f.digest); err == nil {", "f.w.Place(\"\"); err == nil {",
		[]test{{cluster, "^TestWrongBytes$"}},
	},
	// 6. A blob is removed only when no name refers to it, and the log's order decides.
	{
		"collect-what-is-named", "6: a collect takes blobs that something names",
		"cluster/state/blob.go", "if b.strong != 0 || b.pin != 0 {", "if b.pin != 0 {",
		[]test{{state, "^TestPromise6ABlobGoesOnlyWhenNothingNamesIt$"}, {state, "^TestModel$"}},
	},
	{
		"sweep-without-a-look", "6: files are unlinked without a look at the newest state",
		"cluster/replica/sweeps.go", "return !known && s.sweeps.has(d)", "return known || !known",
		[]test{{cluster, "^TestPromise6SweepLooksAtTheNewestState$"}},
	},
	{
		"old-confirmation-counts", "6: a confirmation of before a collect counts after it",
		"cluster/state/blob.go", "if buried && o.Confirmed < tomb || o.Confirmed < s.floor {",
		"if buried && o.Confirmed < tomb && false || o.Confirmed < s.floor {",
		[]test{{state, "^TestPromise6LogOrderDecides$"}, {cluster, "^TestPromise6OldConfirmation$"}},
	},
	{
		"confirmed-above-the-mark", "6: a node confirms at an index that it may not have after a power cut",
		"cluster/replica/replicate.go", "index = min(index, durable)", "index = max(index, durable)",
		[]test{{cluster, "^TestConfirmedBeforePowerCut$"}},
	},
	{
		"fetch-sweeps-a-new-copy", "6: the sweep of an old collect takes what was confirmed since",
		"cluster/replica/sweeps.go", "if at, ok := s.due[d]; ok && at <= index {\n\t\tdelete(s.due, d)",
		"if at, ok := s.due[d]; ok && at <= index {\n\t\ts.due[d] = at",
		[]test{{cluster, "^TestConfirmedWhileFetching$"}},
	},
	{
		"weak-link-survives", "6: a weak link shows again when the bytes of its collected blob come back",
		"cluster/state/entry.go", "return ok && b.born == n.born", "return ok && b.born >= n.born",
		[]test{{state, "^TestWeakLinks$"}, {state, "^TestModel$"}},
	},
	// 7. Recovery is the normal path.
	{
		"mark-above-the-commit", "7: the mark covers entries that are not committed",
		"cluster/cluster.go", "if err := c.commitIndex.Set(index); err != nil {",
		"if err := c.commitIndex.Set(max(index, c.raft.LastIndex())); err != nil {",
		[]test{{cluster, "^TestMarkIsOfWhatIsCommitted$"}},
	},
	{
		"uncommitted-applied", "7: a start applies all of the log, committed or not",
		"cluster/machine.go", "if i <= committed {", "if i <= last {",
		[]test{{cluster, "^TestUncommittedDoesNotShow$"}},
	},
	{
		"shown-before-the-mark", "7: a node says that it shows an entry before its mark is on the disk",
		"cluster/cluster.go", "index := c.machine.view.Load().Index()\n\t\tif err := c.commitIndex.Set(index)",
		"index := c.machine.view.Load().Index()\n\t\tc.marked.reached(index)\n\t\tif err := c.commitIndex.Set(index " +
			"- index%2)",
		[]test{{cluster, "^TestAloneAfterPowerCut$"}},
	},
	{
		"log-not-rewritten", "7: what a failed sync left in memory is taken for the log",
		"cluster/raftlog/wal.go", "if err := rewrite(f); err != nil {", "if err := error(nil); err != nil {",
		[]test{{cluster, "^TestLogNotSynced$"}},
	},
	{
		"log-cut-too-far", "7: the log does not reach back to the older snapshot, which is good for nothing then",
		"cluster/raftlog/logstore.go", "high = min(high, l.older())", "high = min(high, l.snapped())",
		[]test{{cluster, "^TestTheLogReachesBackToTheOlderSnapshot$"}},
	},
	{
		"snapshot-forgets-tombstones", "7: a snapshot is written without the tombstones",
		"cluster/state/snapshot.go",
		"s.tombs.from(\"\", func(d Digest, i uint64) bool { return f.record(&snapTomb{Digest: d, Index: i}) })", "",
		[]test{{state, "^TestSnapshotRoundTrip$"}},
	},
	{
		"snapshot-forgets-pins", "7: a snapshot is written without the pins",
		"cluster/state/snapshot.go", "Size: b.size, Born: b.born, Pin: b.pin})", "Size: b.size, Born: b.born})",
		[]test{{state, "^TestSnapshotRoundTrip$"}},
	},
	{
		"vote-is-forgotten", "7: a node that has lost the end of its log elects somebody without it",
		"cluster/floor.go", "below && last < floor", "below && last > floor",
		[]test{{cluster, "^TestRevertedMajorityHearsOfIt$"}, {cluster, "^TestFlippedBitForgetsNoVote$"}},
	},
	{
		"applied-is-taken-back", "7: a leader overwrites entries that this node has applied",
		"cluster/raftlog/logstore.go", "low <= applied && low > l.snapped()",
		"false && low <= applied && low > l.snapped()",
		[]test{{cluster, "^TestRevertedMajorityGoesOn$"}},
	},
	{
		"entry-not-checked", "7: a log entry that has rotted is applied",
		"cluster/raftlog/entry.go", "if len(l.Extensions) > 0 && (", "if len(l.Extensions) > 1000 && (",
		[]test{{cluster, "^TestFlippedBitInTheLog$"}},
	},
	{
		"rot-is-spread", "7: a leader sends a log entry that has rotted",
		"cluster/raftlog/logstore.go", "l.Damaged(err)\n\t\treturn raft.ErrLogNotFound\n", "return nil\n",
		[]test{{cluster, "^TestFlippedBitIsNotSpread$"}},
	},
	{
		"hanging-leader-stays", "7: a leader whose disk hangs goes on leading",
		"cluster/disk/watchdog.go", "const HangTime = 2 * time.Second", "const HangTime = 200 * time.Second",
		[]test{{cluster, "^TestDiskOfLeaderHangs$"}},
	},
	// 8. Unknown commands.
	{
		"unknown-is-skipped", "8: a command that is not understood is passed over",
		"cluster/state/apply.go",
		"return Result{Index: index, Fatal: fmt.Errorf(\"log index %d: %w\", index, err)}\n\t}\n\tr := s.execute",
		"return Result{Index: index}\n\t}\n\tr := s.execute",
		[]test{{state, "^TestPromise8WhatIsNotUnderstoodIsFatal$"}, {cluster, "^TestPromise8UnknownCommand$"}},
	},
	// 9. All or nothing.
	{
		"half-a-batch", "9: what a refused batch did before the refusal stays",
		"cluster/state/apply.go", "s.rollback(saved)", "_ = saved",
		[]test{{state, "^TestPromise9ABatchAppearsAtOneEntry$"}, {state, "^TestModel$"}},
	},
	{
		"expectation-ignored", "9: a batch is applied although its precondition does not hold",
		"cluster/state/apply.go", "case *Expect:\n\t\t\tif err := op.hold(s); err != nil {",
		"case *Expect:\n\t\t\tif err := op.hold(s); err != nil && false {",
		[]test{{state, "^TestExpect$"}, {state, "^TestModel$"}},
	},
	// 10. Secrets are sealed.
	{
		"token-used-twice", "10: a join token lets in a second node",
		"cluster/member/token.go", "if r.Node != \"\" {\n", "if r.Node != \"\" && false {\n",
		[]test{{cluster, "^TestTokens$"}},
	},
	{
		"proof-not-checked", "10: a join token's secret need not be known",
		"cluster/member/token.go", "!ed25519.Verify(r.Public, signed, signature) {", "false {",
		[]test{{cluster, "^TestTokens$"}},
	},
	{
		"not-sealed-anew", "10: what was sealed stays sealed under a key that a removed node knows",
		"cluster/member/rekey.go", "if !strings.HasPrefix(e.Data, sealLabel) || name == authorityName {",
		"if !strings.HasPrefix(e.Data, sealLabel) || name != \"\" {",
		[]test{{cluster, "^TestReplaceNode$"}},
	},
	// 11. Exactly once.
	{
		"repeat-is-applied", "11: a command that stands in the log twice is applied twice",
		"cluster/state/session.go", "if o, ok := s.outcomes.get(outcomeKey(c.Node, c.Seq)); ok {",
		"if o, ok := s.outcomes.get(outcomeKey(c.Node, c.Seq)); ok && false {",
		[]test{{state, "^TestPromise11ExactlyOnce$"}, {cluster, "^TestPromise11ExactlyOnce$"}},
	},
	{
		"old-boot-is-applied", "11: a command of a process that is gone is applied",
		"cluster/state/session.go", "case c.Boot < se.boot:", "case c.Boot < se.boot && false:",
		[]test{{state, "^TestRepeatsAreAnsweredWithTheFirstOutcome$"}, {cluster, "^TestPromise11ExactlyOnce$"}},
	},
	{
		"snapshot-forgets-outcomes", "11: a snapshot is written without what was answered to commands under way",
		"cluster/state/snapshot.go",
		"return f.record(&snapOutcome{Node: node, Seq: seq, Index: o.index, Err: o.err})",
		"return f.record(&snapOutcome{Node: node, Seq: seq, Index: o.index})",
		[]test{{state, "^TestModel$"}},
	},
	{
		"name-of-another-life", "11: a command is answered with the outcome of one of before the disk was put back",
		"cluster/propose.go", "case !before && r.Index != index:", "case false && r.Index != index:",
		[]test{{cluster, "^TestRevertedNodeNamesItsCommandsAnew$"}},
	},
	// 12. A confirmed blob has these bytes.
	{
		"suspect-is-whole", "12: a file that may have been changed is handed out without being hashed",
		"cluster/blob/damage.go", "if err = d.Verify(d.life, digest); err == nil {",
		"if err = error(nil); err == nil {",
		[]test{{blob, "^TestSuspicion$"}, {cluster, "^TestDamagedOnTheOnlyNode$"}},
	},
	{
		"damage-is-handed-out", "12: a manifest that has rotted is read without a word",
		"cluster/replica/open.go", "if err == nil && have() == digest {", "if err == nil && have() != \"\" {",
		[]test{{cluster, "^TestReadFileFindsRot$"}},
	},
	{
		"rot-is-read", "12: the first read after a start does not look for rot",
		"cluster/tree.go", "return t.c.replica.OpenVerified(ctx, digest)", "return t.c.replica.Open(ctx, digest)",
		[]test{{cluster, "^TestRotIsFoundByTheFirstRead$"}},
	},
	// Members find each other, which everything above depends on.
	{
		"address-not-said", "a node that has moved does not say where it is",
		"cluster/peer/beat.go", "\tp.hear(node, r.Header.Values(addressHeader))\n", "",
		[]test{{cluster, "^TestSomeAddressesChange$"}},
	},
	{
		"first-address-published", "a node publishes its first address only",
		"cluster/member/record.go", "Addrs: ms.cfg.Addrs, Key:", "Addrs: ms.cfg.Addrs[:1], Key:",
		[]test{{cluster, "^TestOneFamilyWorks$"}},
	},
	{
		"address-not-kept", "what an operator says of a node's address is forgotten",
		"cluster/peer/addresses.go", "\ta.told[node] = addr\n\treturn p.writeTold()",
		"\ta.told[node] = addr\n\treturn nil",
		[]test{{cluster, "^TestAllAddressesChange$"}},
	},
}
