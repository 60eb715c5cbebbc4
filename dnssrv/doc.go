// Package dnssrv answers DNS for a network without internet: upstream names with our nodes' addresses, the own zone,
// the operator's records, and the rest by forwarding or not at all.
//
// What it promises:
//
//   - Everything but forwarding is answered from an immutable [Table] in memory, which [Server.Apply] replaces; the
//     cost of a change depends on its size, not on that of the table. No answer waits for a disk, a quorum or a lock,
//     so the server answers in the first moments of boot and while the cluster has no leader.
//   - An overridden name is answered with every healthy node (all of them if none is healthy), in an order that is
//     stable for a client and distributes clients over nodes. A type that a name does not have is NODATA with an SOA,
//     never NXDOMAIN (RFC 2308, RFC 8020).
//   - It is no open resolver and no amplifier: clients outside [Base.Allow] get REFUSED in no more bytes than they
//     sent, ANY is minimal (RFC 8482), UDP answers have at most 1232 bytes, zone transfers are refused.
//   - Hostile packets are answered or dropped by RFC, never with a panic. Connections, forwards and misses in flight
//     are bounded, and a newcomer replaces one of the client that has most.
//   - No answer waits for another to be sent. Forged sources take no resources from honest ones: neither addresses
//     without a host, nor the address of a victim, which gets no more bytes than the forger sent once
//     [Base.ResponseRate] is reached.
//   - Only the requested data of a resolver's answer is passed on; we answer our own names, even at the end of a
//     resolver's CNAMEs. Names that mean the same everywhere (localhost, RFC 6761) are never forwarded.
//   - A forwarder that does not support EDNS, or does not repeat the case of names, is asked without.
//   - What a client would be answered, and why, is explained by the code that answers it ([Server.Explain]).
//   - A dead forwarder costs the client less than two seconds and results in SERVFAIL, so that the client asks the next
//     bastion.
//
// The hot questions over UDP are answered from packed bytes, read and written in batches (fast.go, udp.go); everything
// else goes through miekg/dns (message.go, resolve.go). Both give the same answer to the same question, which a
// differential fuzz test checks.
package dnssrv
