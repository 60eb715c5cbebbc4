// Package dnssrv answers DNS for a network that has no internet: upstream names with our nodes' addresses, the own
// zone, what the operator set, and the rest by forwarding or not at all.
//
// What it promises:
//
//   - Everything but forwarding is answered from an immutable [Table] in memory, which [Server.Apply] replaces; a change costs what it
//     brings, not what the table holds. No answer waits for a disk, a quorum or a lock, so it answers in the first moments of boot and while the cluster has no leader.
//   - An overridden name answers with every healthy node (all of them if none is healthy), in an order that is stable for a client and
//     spreads clients over nodes. A type that a name lacks is NODATA with an SOA, never NXDOMAIN (RFC 2308, RFC 8020).
//   - It is no open resolver and no amplifier: clients outside [Base.Allow] get REFUSED in no more bytes than they sent, ANY is minimal
//     (RFC 8482), UDP answers end at 1232 bytes, zone transfers are refused.
//   - Hostile packets are answered or dropped by RFC, never with a panic. Connections, forwards and misses in flight are bounded, and a newcomer gets
//     the place of who has most.
//   - No answer waits for another to be sent. Forged sources take no room from honest ones: neither addresses that nobody has, nor
//     somebody else's, who gets no more bytes than the forger sent once [Base.ResponseRate] is reached.
//   - Of what a resolver says, only what was asked for is passed on; our names are answered by us, also at the end of its CNAMEs. Names that mean the
//     same everywhere (localhost, RFC 6761) are never asked for elsewhere.
//   - A forwarder that does not know EDNS, or does not repeat the case of names, is asked without.
//   - A forwarder that is dead costs the client less than two seconds and gives SERVFAIL, so that it asks the next bastion.
//
// The hot questions over UDP are answered from packed bytes, read and written in batches (fast.go, udp.go); everything
// else goes through miekg/dns (message.go, resolve.go). Both give the same answer to the same question, which a
// differential fuzz test holds.
package dnssrv
