// Package transport sends HTTP requests to upstream servers. It retries what can succeed the next time, respects
// Retry-After and the limits of hosts, and ends responses that stall.
package transport
