package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"

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
// known early; the function that it returns moves it there or removes it. A file that is not blank is left as it is,
// but for node, data and advertise where given sets one and the file does not: they are added at its end. With ""
// nothing is written. writes says whether something is.
func Stage(path string, cfg, given Config) (put func(ok bool) error, writes bool, err error) {
	if path == "" {
		return func(bool) error { return nil }, false, nil
	}
	blank, err := Blank(path)
	if err != nil {
		return nil, false, err
	}
	var text []byte
	if blank {
		text = defaulted(cfg).YAML()
	} else if text, err = extended(path, given); err != nil || text == nil {
		return func(bool) error { return nil }, false, err
	}
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real // a link stays one
	}
	if err := service.MakeParents(filepath.Dir(path)); err != nil {
		return nil, false, fmt.Errorf("config %s cannot be written, name another with --config: %w", path, err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".casemate-*.yaml")
	if err != nil {
		return nil, false, fmt.Errorf("config %s cannot be written, name another with --config: %w", path, err)
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		os.Remove(f.Name())
		return nil, false, fmt.Errorf("config %s: %w", path, err)
	}
	return func(ok bool) error {
		if !ok {
			return os.Remove(f.Name())
		}
		return os.Rename(f.Name(), path)
	}, true, nil
}

// extended is the config file at path with the keys of given that it does not set; nil if there are none.
func extended(path string, given Config) ([]byte, error) {
	has, err := Load(path)
	if err != nil {
		return nil, err
	}
	var add strings.Builder
	if has.Node == "" && given.Node != "" {
		fmt.Fprintf(&add, "node: %q\n", given.Node)
	}
	if has.Data == "" && given.Data != "" {
		fmt.Fprintf(&add, "data: %q\n", given.Data)
	}
	if has.Advertise == nil && given.Advertise != nil {
		var list []string
		for _, a := range given.Advertise {
			list = append(list, fmt.Sprintf("%q", a))
		}
		fmt.Fprintf(&add, "advertise: [%s]\n", strings.Join(list, ", "))
	}
	if add.Len() == 0 {
		return nil, nil
	}
	old, err := os.ReadFile(path)
	if err != nil {
		return nil, usage.Errorf("config: %w", err)
	}
	text := string(old)
	if text != "" && !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	text += add.String()
	if _, err := Parse(path, []byte(text)); err != nil {
		return nil, usage.Errorf("config %s exists, and the values of the flags cannot be appended to it: "+
			"write it there, "+
			"and leave the flags out: %s", path, strings.ReplaceAll(strings.TrimSpace(add.String()), "\n", "; "))
	}
	return []byte(text), nil
}

// defaulted is a config without what is the default anyway: that stands in the file as a comment.
func defaulted(cfg Config) *Config {
	if cfg.Data == service.DataDir {
		cfg.Data = ""
	}
	if cfg.Listen.Admin == DefaultSocket {
		cfg.Listen.Admin = ""
	}
	if cfg.Log.Format == "auto" {
		cfg.Log.Format = ""
	}
	return &cfg
}
