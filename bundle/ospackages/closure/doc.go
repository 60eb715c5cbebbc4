// Package closure finds everything that packages need: their dependencies, and the dependencies of these. It knows no
// format of packages; the caller says what a package needs, and which packages satisfy that.
package closure
