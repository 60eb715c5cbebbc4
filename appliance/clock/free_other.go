//go:build !linux

package clock

func free() bool { return false }
