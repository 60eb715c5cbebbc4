// Package signing signs the documents that cross the gap with ed25519, verifies them, and reads and writes keys.
package signing
