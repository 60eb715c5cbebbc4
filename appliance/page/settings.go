package page

import (
	"net/http"
	"net/url"
	"strings"
)

// settingActions are the actions of the page about settings.
var settingActions = map[string]action{
	"setting-set": {
		title: "Change a setting", button: "Change the setting", verb: "administer", method: http.MethodPut,
		path: "/v1/settings/{key}", back: "/settings", command: "casemate config set {key} {value}",
		fields: []field{{name: "key", label: "Setting"},
			{name: "value", label: "Value", kind: "lines", value: func(text string) any {
				return strings.TrimSpace(strings.ReplaceAll(text, "\r\n", "\n"))
			}}},
		load: loadSetting,
	},
	"setting-unset": {
		title: "Put a default back", button: "Put the default back", verb: "administer", method: http.MethodDelete,
		path: "/v1/settings/{key}", back: "/settings", command: "casemate config set {key} --default",
		fields: []field{{name: "key", label: "Setting"}}, load: loadSetting,
	},
}

// setting is GET /v1/settings.
type setting struct {
	Key, Value, Default, Help string
	Set                       bool
}

// loadSetting fills the form of a setting with its value, and says what it means.
func loadSetting(c *call, a *action, values url.Values) error {
	key := values.Get("key")
	if key == "" {
		return nil
	}
	var s setting
	if _, err := c.get("/v1/settings/"+url.PathEscape(bounded(key)), &s); err != nil {
		return err
	}
	values.Set("value", s.Value)
	a.note = s.Key + ": " + s.Help + "."
	if s.Default != "" {
		a.note += " The default is " + s.Default + "."
	}
	return nil
}

// settingsPage shows the settings of the cluster.
func settingsPage(c *call) (view, error) {
	all, err := table(c, list[setting]{
		Name: "settings", Title: "Settings of the cluster", Path: "/v1/settings", Command: "casemate config list",
		Head: []string{"Setting", "Value", "Default", "What it does"}, Most: 500,
		Row: func(s setting) []Cell { return settingRow(c, s) },
	})
	if err != nil {
		return view{}, err
	}
	return view{Command: "casemate config list", Live: []string{"tree"}, Parts: []part{all}}, nil
}

func settingRow(c *call, s setting) []Cell {
	value := Cell{Text: s.Value, Class: "code"}
	links := []link{actionLink("Change", "setting-set", "key", s.Key)}
	if s.Set {
		value.More = "set"
		links = append(links, actionLink("Default", "setting-unset", "key", s.Key))
	}
	return []Cell{code(s.Key), value, code(s.Default), text(s.Help), c.offer(links...)}
}
