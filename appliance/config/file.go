package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"

	"casemate/appliance/service"
	"casemate/appliance/usage"
)

// Blank reports a config file that sets nothing, like the one of a fresh package, or that does not exist: it is written
// for the operator. A file with a mistake is not blank. An error: whether there is one cannot be known.
func Blank(path string) (bool, error) {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return true, nil
	} else if err != nil {
		return false, usage.Errorf("config: %w", err)
	}
	cfg, err := Load(path)
	return err == nil && reflect.DeepEqual(cfg, Config{}), nil
}

// Stage writes the config beside its place before anything else is done, so that a place that cannot be written to is
// known early; the function that it returns moves it there or removes it. A file that is not blank is left alone, and
// with "" nothing is written.
func Stage(path string, cfg Config) (func(ok bool) error, error) {
	if path == "" {
		return func(bool) error { return nil }, nil
	}
	if blank, err := Blank(path); err != nil || !blank {
		return func(bool) error { return nil }, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("config %s cannot be written, name another with --config: %w", path, err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".casemate-*.yaml")
	if err != nil {
		return nil, fmt.Errorf("config %s cannot be written, name another with --config: %w", path, err)
	}
	// What is the default anyway stands there as a comment.
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
