// Package ospackages reads what repositories of operating-system packages say of themselves: Release files of apt,
// repomd.xml of dnf, and the names of package files.
//
// It verifies no signature: clients do. Every input is bounded.
package ospackages
