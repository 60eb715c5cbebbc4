// Package download fetches one piece of content into the cache. It resumes broken bodies, also in a later run, and
// verifies the digest.
package download
