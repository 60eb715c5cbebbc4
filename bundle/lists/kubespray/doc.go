// Package kubespray computes what a checkout of Kubespray downloads, for the release or for the hosts of an inventory.
// It runs nothing of the checkout.
//
// It promises: a variable that cannot be evaluated is an error that names the variable, its file and line; and what the
// checkout's own script forgets is reported.
package kubespray
