package main

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"casemate/appliance/address"
	"casemate/bundle"
	"casemate/bundle/lists"
)

// Flag types of the command line. Each Set refuses a bad value with an error that begins with "must be", so that the
// message reads "--flag must be …, got …" (see flagError).

// parsed is a flag with one value of type T.
type parsed[T any] struct {
	to    *T
	text  string
	name  string // of the type, in usage errors of pflag
	parse func(string) (T, error)
}

func (p *parsed[T]) String() string { return p.text }
func (p *parsed[T]) Type() string   { return p.name }
func (p *parsed[T]) Set(s string) error {
	v, err := p.parse(s)
	if err == nil {
		*p.to, p.text = v, s
	}
	return err
}

// list is a flag that may be repeated; with commas it also takes several values at once.
type list[T any] struct {
	to     *[]T
	texts  []string
	name   string
	commas bool
	parse  func(string) (T, error)
}

func (l *list[T]) String() string { return strings.Join(l.texts, ",") }
func (l *list[T]) Type() string   { return l.name }
func (l *list[T]) Set(s string) error {
	texts := []string{s}
	if l.commas {
		texts = strings.Split(s, ",")
	}
	for _, text := range texts {
		text = strings.TrimSpace(text)
		v, err := l.parse(text)
		if err != nil {
			return err
		}
		*l.to, l.texts = append(*l.to, v), append(l.texts, text)
	}
	return nil
}

// choice adds a flag that accepts one of some words; the first is the default.
func choice(cmd *cobra.Command, to *string, name, short, usage string, words ...string) {
	*to = words[0]
	v := &parsed[string]{to: to, text: words[0], name: "word", parse: func(s string) (string, error) {
		if slices.Contains(words, s) {
			return s, nil
		}
		return "", fmt.Errorf("must be %s, got %q", oneOf(words), s)
	}}
	cmd.Flags().VarP(v, name, short, usage+": "+strings.Join(slices.DeleteFunc(slices.Clone(words), isEmpty), ", "))
	cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
}

func isEmpty(s string) bool { return s == "" }

// oneOf returns "a", "a or b", "one of a, b, c".
func oneOf(words []string) string {
	words = slices.DeleteFunc(slices.Clone(words), isEmpty)
	if len(words) < 3 {
		return strings.Join(words, " or ")
	}
	return "one of " + strings.Join(words, ", ")
}

// sizeVar adds a flag for a number of bytes, like 4GiB.
func sizeVar(f *pflag.FlagSet, to *int64, name, usage string) {
	f.Var(&parsed[int64]{to: to, name: "size", parse: parseSize}, name, usage)
}

// durationVar adds a flag for a duration that may have days, like 7d or 1d12h.
func durationVar(f *pflag.FlagSet, to *time.Duration, name, usage string) {
	v := &parsed[time.Duration]{to: to, name: "duration", parse: parseDuration}
	if *to != 0 {
		v.text = formatDuration(*to)
	}
	f.Var(v, name, usage)
}

// addrsVar adds a flag for IP addresses.
func addrsVar(f *pflag.FlagSet, to *[]netip.Addr, name, usage string) {
	f.Var(&list[netip.Addr]{to: to, name: "addresses", commas: true, parse: func(s string) (netip.Addr, error) {
		a, err := address.Parse(s)
		if err != nil && !errors.Is(err, address.ErrZone) {
			return a, fmt.Errorf("must be IP addresses, got %q", s)
		}
		return a, err
	}}, name, usage)
}

// zonesVar adds a flag for zones, addresses and ranges of them.
func zonesVar(f *pflag.FlagSet, to *[]string, name, usage string) {
	f.Var(&list[string]{to: to, name: "zones", parse: parseZone}, name, usage)
}

// platformsVar adds a flag for platforms of images.
func platformsVar(f *pflag.FlagSet, to *[]string, name, usage string) {
	f.Var(&list[string]{to: to, name: "platforms", commas: true, parse: parsePlatform}, name, usage)
}

// releaseVar adds a flag for releases of a distribution; the flag's name is its name.
func releaseVar(f *pflag.FlagSet, to *[]lists.Release, name, usage string) {
	f.Var(&list[lists.Release]{to: to, name: "version", parse: func(s string) (lists.Release, error) {
		return lists.ParseRelease(name, s)
	}}, name, usage)
}

// settingsVar adds a flag for settings, KEY=VALUE.
func settingsVar(f *pflag.FlagSet, to *[][2]string, name, usage string) {
	f.Var(&list[[2]string]{to: to, name: "settings", parse: func(s string) ([2]string, error) {
		key, value, ok := strings.Cut(s, "=")
		if !ok || key == "" {
			return [2]string{}, fmt.Errorf("must be KEY=VALUE, got %q", s)
		}
		return [2]string{key, value}, nil
	}}, name, usage)
}

// oldName keeps the name of a flag in older versions. Help, man pages and completions do not show it.
func oldName(f *pflag.FlagSet, old, name string) {
	flag := *f.Lookup(name)
	flag.Name, flag.Shorthand, flag.Hidden = old, "", true
	flag.Usage = "the older name of --" + name
	f.AddFlag(&flag)
}

// flagError turns pflag's error about a flag into one sentence.
func flagError(cmd *cobra.Command, err error) error {
	var invalid *pflag.InvalidValueError
	var unknown *pflag.NotExistError
	switch {
	case errors.As(err, &invalid):
		cause := invalid.Unwrap().Error()
		if !strings.Contains(cause, "got ") { // pflag's own types omit it
			cause += fmt.Sprintf(", got %q", invalid.GetValue())
		}
		err = fmt.Errorf("--%s %s", invalid.GetFlag().Name, cause)
	case errors.As(err, &unknown):
		err = unknownFlag(cmd, unknown)
	}
	return usageError{fmt.Errorf("%w (see %s --help)", err, cmd.CommandPath())}
}

// unknownFlag says which flag may have been meant. After a single dash that is a flag by its long name, or a value that
// begins with a dash.
func unknownFlag(cmd *cobra.Command, unknown *pflag.NotExistError) error {
	var flags []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			flags = append(flags, "--"+f.Name)
		}
	})
	short := unknown.GetSpecifiedShortnames()
	if short == "" {
		name := unknown.GetSpecifiedName()
		near := nearest("--"+name, slices.Values(flags))
		if sub, _, found := cmd.Find([]string{name}); found == nil && sub.Parent() == cmd && near == nil {
			near = []string{sub.CommandPath()} // --version
		}
		return fmt.Errorf("%w%s", unknown, didYouMean(near))
	}
	name, _, _ := strings.Cut(short, "=")
	switch long := "--" + name; {
	case slices.Contains(flags, long):
		return fmt.Errorf("unknown flag: -%s%s", short, didYouMean([]string{long}))
	case strings.Contains(cmd.Use, " ") && !cmd.HasSubCommands():
		return fmt.Errorf("unknown flag: -%s; a value that begins with a dash needs -- before it: %s … -- -%s", short,
			cmd.CommandPath(), short)
	}
	return fmt.Errorf("unknown flag: -%s", short)
}

// parseSize reads a size as the GNU tools do: K, M, G, T and KiB… are powers of 1024, KB… of 1000. "" is 0.
func parseSize(s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	digits := strings.TrimRight(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
	unit := strings.ToUpper(s[len(digits):])
	base := int64(1024)
	if short, ok := strings.CutSuffix(unit, "IB"); ok && short != "" {
		unit = short
	} else if short, ok := strings.CutSuffix(unit, "B"); ok {
		unit = short
		base = 1000
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	power := strings.Index("KMGT", unit)
	if err != nil || n <= 0 || len(unit) > 1 || power < 0 {
		return 0, fmt.Errorf("must be a size like 4GiB, 4G or 650MB, got %q", s)
	}
	if unit != "" {
		for range power + 1 {
			if n > (1<<62)/base {
				return 0, fmt.Errorf("must be a size below 4096 PiB, got %q", s)
			}
			n *= base
		}
	}
	return n, nil
}

// days is the part of a duration that time.ParseDuration does not support.
var days = regexp.MustCompile(`^(\d{1,5}(?:\.\d{1,3})?)d`)

// parseDuration reads a duration in Go's format, optionally with days (of 24 hours) before the rest: 90m, 7d, 1d12h.
func parseDuration(s string) (time.Duration, error) {
	wrong := fmt.Errorf("must be a duration like 90m, 12h or 7d, got %q", s)
	rest, whole := s, time.Duration(0)
	if m := days.FindStringSubmatch(s); m != nil {
		n, err := strconv.ParseFloat(m[1], 64)
		if err != nil {
			return 0, wrong
		}
		rest, whole = s[len(m[0]):], time.Duration(n*24*float64(time.Hour))
		if rest == "" {
			return whole, nil
		}
	}
	d, err := time.ParseDuration(rest)
	if err != nil || d < 0 || whole+d < whole {
		return 0, wrong
	}
	return whole + d, nil
}

// formatDuration returns the shortest text that parseDuration accepts for a duration of whole seconds.
func formatDuration(d time.Duration) string {
	const day = 24 * time.Hour
	if d > 0 && d%day == 0 {
		return fmt.Sprintf("%dd", d/day)
	}
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// platform matches a platform in the form that the daemon and bundle create accept.
var platform = regexp.MustCompile(`^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+){1,2}$`)

func parsePlatform(s string) (string, error) {
	if len(s) > 64 || !platform.MatchString(s) {
		return "", fmt.Errorf("must be OS/ARCH or OS/ARCH/VARIANT, like linux/amd64 or linux/arm64/v8, got %q", s)
	}
	part := strings.Split(strings.ToLower(s), "/")
	for i, known := range [][]string{bundle.Systems, bundle.Architectures} {
		if !slices.Contains(known, part[i]) {
			return "", fmt.Errorf("must name one of %s, got %q in %q%s", strings.Join(known, ", "), part[i], s,
				didYouMean(nearest(part[i], slices.Values(known))))
		}
	}
	return s, nil
}

// zone matches a DNS name; the CA decides whether a certificate may be for it.
var zone = regexp.MustCompile(`^\.?` + label + `(\.` + label + `)*\.?$`)

const label = `[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?`

func parseZone(s string) (string, error) {
	p, err := address.ParsePrefix(s)
	switch {
	case errors.Is(err, address.ErrZone):
		return "", err
	case err == nil && strings.Contains(s, "/"):
		return p.String(), nil
	case err == nil:
		return p.Addr().String(), nil
	}
	digits := strings.Trim(s, "0123456789.") == "" // an address with a mistake
	if digits || strings.Contains(s, "/") || len(s) > 254 || !zone.MatchString(s) {
		return "", fmt.Errorf("must be a zone like corp.example, an address or a range like 10.0.0.0/8, got %q", s)
	}
	return s, nil
}
