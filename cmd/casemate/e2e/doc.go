// Package e2e tests the real binary with real clients, each in a network namespace that is a host of its own:
// its own address, its own resolv.conf and its own trust store are all that a client has.
//
// Built with the tag e2e (make e2e) or bench (make bench); both need root on Debian.
package e2e
