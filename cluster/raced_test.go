//go:build race

package cluster_test

// raced says that the race detector is on, with which everything takes about ten times as long.
const raced = true
