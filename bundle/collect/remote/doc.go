// Package remote is a client of registries: it logs in, follows redirects to other hosts without credentials, and
// checks what it gets.
package remote
