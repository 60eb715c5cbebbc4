// Package input reads whatever an operator names: it finds out whether the inputs are bundles or were written by other
// tools, and lets format or foreign read them.
package input
