// Package oci parses manifests, indexes and platforms of the OCI image specification and of Docker. It does not know
// where they come from.
package oci
