// Package foreign reads what other tools wrote: OCI layouts, docker-archives, hauls, trees of HOST/PATH files, Python
// packages, and Kubespray's offline archives. An input is recognised by its content, never by its name.
//
// It promises: every input is bounded, also when it is compressed; every digest that an archive states is verified; and
// an ambiguous name is an error.
package foreign
