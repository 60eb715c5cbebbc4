// Package format writes, reads and verifies bundles. Every byte of a bundle but the content of its blobs follows from
// its index and its part document, so the reader computes these bytes with the code of the writer and compares them.
//
// It promises: no byte of a bundle can change unnoticed, and damage is reported with the part that contains it; parts
// can be read in any order and on different days; and memory does not grow with the size of blobs.
package format
