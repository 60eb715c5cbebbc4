package kubespray

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"casemate/bundle/lists/jinja"
)

// failure is a download whose name cannot be computed.
type failure struct {
	err error
	// nameOf computes it, also for the checkout without the user's variables.
	nameOf func(*kubespray) (string, error)
}

func (k *kubespray) fail(err error, nameOf func(*kubespray) (string, error)) {
	k.failures = append(k.failures, failure{err, nameOf})
}

// isUnreadable reports whether an error comes from a value that exists and is not known here.
func isUnreadable(err error) bool {
	var u *jinja.UnreadableError
	return errors.As(err, &u)
}

// failed returns the error of all downloads that failed. A given variable that cannot be evaluated is named once, with
// the names that the checkout has by default.
func (k *kubespray) failed() error {
	var errs []error
	var causes []string
	names := map[string][]string{}
	var plain *kubespray
	for _, f := range k.failures {
		var cause *variableError
		if !errors.As(f.err, &cause) || !isUnreadable(f.err) && !k.isGiven(cause.name) {
			errs = append(errs, f.err)
			continue
		}
		text := cause.Error()
		if !slices.Contains(causes, text) {
			causes = append(causes, text)
		}
		if plain == nil {
			plain = k.checkout.cluster(Options{}, nil, nil)
			plain.facts = k.facts
			plain.vars = plain.scope(nil, nil)
		}
		if name, err := f.nameOf(plain); err == nil && name != "" {
			names[text] = append(names[text], name)
		}
	}
	for _, text := range causes {
		if len(names[text]) > 0 {
			text += "\n    it replaces the default " + strings.Join(names[text], ", ")
		}
		errs = append(errs, fmt.Errorf("%s\n    give its value in a file with --kubespray-vars", text))
	}
	return errors.Join(errs...)
}

// isGiven reports whether a variable has its value from an inventory or from Vars.
func (k *kubespray) isGiven(name string) bool {
	_, a := k.inventory[name]
	_, b := k.over[name]
	return a || b
}
