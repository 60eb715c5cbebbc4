// Package bundle defines the documents that cross the gap, the index of a bundle and the inventory of a cluster, and
// the types that its packages share: inputs, the sink for their blobs, and what was read.
//
// The work is done by the packages below it: collect fetches what lists name, format writes and reads bundles, foreign
// reads what other tools wrote, and input finds out which of the two reads an input.
//
// Together they promise: memory does not grow with the size of blobs or bundles; all errors of the lists are reported
// before anything is fetched; the same content gives the same bytes; and no byte of a bundle can change unnoticed. They
// build without the rest of Casemate, and for macOS.
package bundle
