// Package bundle is what crosses the gap: collecting on the connected side what lists name, the bundle's
// format, and reading it, or what other tools made, on the other side.
//
// It promises: memory does not grow with the size of blobs or bundles; what a list names wrongly is said, all of it,
// before anything is fetched; the same content makes the same bytes; and no byte of a bundle can change unnoticed. It
// builds without any other room and for macOS too.
package bundle
