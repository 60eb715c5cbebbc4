// Package e2e tests the real binary with real clients. Each client has a network namespace with its own address,
// resolv.conf and trust store.
//
// Built with the tag e2e (make e2e) or bench (make bench); both need root on Debian.
package e2e
