// Package cache stores what was fetched on the disk, by digest, so that the next run fetches only what is new.
package cache
