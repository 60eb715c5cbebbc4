package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"

	"casemate/appliance/service"
)

// Blank reports a config file that sets nothing, like the one of a new package, or that does not exist: casemate
// writes it for the operator.
func Blank(path string) bool {
	if _, err := os.Lstat(path); err != nil {
		return true
	}
	cfg, err := Load(path)
	return err == nil && reflect.DeepEqual(cfg, Config{})
}

// Stage writes the config next to its path before anything else is done, so that a path that cannot be written is
// found early. The returned function moves it to its path or removes it. A file that is not blank is not changed, and
// with "" nothing is written.
func Stage(path string, cfg Config) (func(ok bool) error, error) {
	if path == "" || !Blank(path) {
		return func(bool) error { return nil }, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("config %s cannot be written, give another path with --config: %w", path, err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".casemate-*.yaml")
	if err != nil {
		return nil, fmt.Errorf("config %s cannot be written, give another path with --config: %w", path, err)
	}
	// A default value is written as a comment.
	if cfg.Data == service.DataDir {
		cfg.Data = ""
	}
	if cfg.Listen.Admin == DefaultSocket {
		cfg.Listen.Admin = ""
	}
	if cfg.Log.Format == "auto" {
		cfg.Log.Format = ""
	}
	_, err = f.Write(cfg.YAML())
	if err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		os.Remove(f.Name())
		return nil, fmt.Errorf("config %s: %w", path, err)
	}
	return func(ok bool) error {
		if !ok {
			return os.Remove(f.Name())
		}
		return os.Rename(f.Name(), path)
	}, nil
}
