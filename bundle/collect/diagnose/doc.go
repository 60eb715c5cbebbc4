// Package diagnose says what content looks like that does not have the expected digest: truncated, an error page,
// another version, or for another architecture.
package diagnose
