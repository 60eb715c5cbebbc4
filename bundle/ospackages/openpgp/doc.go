// Package openpgp verifies what publishers of package repositories have signed: against named keys only, by the rules
// of apt and dnf.
package openpgp
