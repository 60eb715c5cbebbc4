// Package e2e tests the real binary with real clients. Each client has a network namespace with its own address,
// resolv.conf and trust store.
//
// Built with the tag e2e (make e2e) or bench (make bench); both need root on Debian. One test needs what cannot be
// installed from a package: with CASEMATE_INSTALLERS=DIR, TestInstallers runs the installers of k3s and RKE2 in DIR
// (k3s.sh, rke2.sh), as their projects publish them.
//
// Tests with labs of their own run at the same time. Those that judge what doctor says of a host do not: it looks at
// the processes, which all labs of a machine share. Neither do those that boot machines, which share a control group.
package e2e
