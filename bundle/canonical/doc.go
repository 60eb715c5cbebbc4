// Package canonical writes and reads JSON documents that have exactly one form, so that the same content gives the same
// bytes.
package canonical
