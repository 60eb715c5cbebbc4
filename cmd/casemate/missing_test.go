package main

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"casemate/appliance/missing"
)

// The command prints the answer of the admin API.
func TestMissingPrintsAllFields(t *testing.T) {
	fields := func(typ reflect.Type) (list []string) {
		for _, f := range reflect.VisibleFields(typ) {
			// The times of clients are not answered: waiting is made of them.
			if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "" && name != "asked" {
				list = append(list, name)
			}
		}
		slices.Sort(list)
		return list
	}
	if cli, api := fields(reflect.TypeFor[miss]()), fields(reflect.TypeFor[missing.Listed]()); !slices.Equal(cli, api) {
		t.Errorf("the command has %v, the API has %v", cli, api)
	}
}
