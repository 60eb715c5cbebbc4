package kubespray

import (
	"fmt"
	"strings"
	"testing"

	"casemate/bundle/lists/jinja"
)

func testVariables(t testing.TB) *variables {
	t.Helper()
	f, err := readVars("vars.yml", strings.NewReader(`
version: 1.36.2
minor: "{{ version.split('.')[1] | int }}"
on: yes
none:
decimal: 1.20
table:
  amd64:
    1.36.2: new
    1.36.1: old
    '1.20': oldest
  arm64: {}
nested: {a: "{{ version }}", b: ["{{ minor }}", 2]}
list: [b, a, b]
broken: "{{ nobody }}"
self: "{{ self }}"
lines: >-
  {%- if minor > 35 -%}
  new
  {%- elif minor == 35 -%}
  middle
  {%- else -%}
  old
  {%- endif -%}
`))
	if err != nil {
		t.Fatal(err)
	}
	return (&variables{}).with(f.defs)
}

func TestJinja(t *testing.T) {
	for _, c := range []struct{ template, want string }{
		{"plain", "plain"},
		{"v{{ version }}-x", "v1.36.2-x"},
		{"{{ minor }}", "36"},
		{"{{ minor + 1 }}/{{ 7 // 2 }}/{{ 7 % 4 }}/{{ 7 / 2 }}/{{ -2 * 3 }}/{{ 4 - 6 }}", "37/3/3/3.5/-6/-2"},
		{"{{ decimal }}", "1.2"}, // as Ansible has it: an unquoted 1.20 is a number
		{"{{ table['amd64']['1.20'] }}", "oldest"},
		{"{{ (table.amd64 | dict2items)[0].key }} {{ (table.amd64 | dict2items)[-1].value }}", "1.36.2 oldest"},
		{"{{ table['amd64'].keys() | select('version', '1.36.2', '<') | first }}", "1.36.1"},
		{"{{ table.amd64 | reject('equalto', '1.36.2') | join(',') }}", "1.36.1,1.20"},
		{"{{ version is version('1.7.1', '>=') }}{{ version is not version('1.9', 'lt') }}", "TrueTrue"},
		{"{{ 'v1.10.1' is version('v1.9.3', '>') }}", "True"},
		{"{{ '-x' if on else '' }}{{ 'y' if not on }}", "-x"},
		{"{{ nobody | default('d') }}{{ nobody.a['b'] | d(nobody2 | d('e')) }}{{ broken | default('f') }}{{ '' | " +
			"default('g', true) }}{{ none | d('h') }}", "defg"},
		{"{{ nobody is defined }} {{ broken is defined }} {{ version is defined }} {{ nobody is undefined }} {{ none " +
			"is none }}", "False False True True True"},
		{"{{ 'a' in list }} {{ 'z' not in list }} {{ 'amd64' in table }} {{ '36' in version }}", "True True True True"},
		{"{{ on and 'x' or 'y' }} {{ none or 'z' }} {{ not on }} {{ true == on }}", "x z False True"},
		{"{{ 1 < 2 and 'a' < 'b' and 2 >= 2 and 1 != 2.5 and [1, 'a'] == [1, 'a'] }}", "True"},
		{"{{ (version | split('.'))[:-1] | join('.') }} {{ version[2:4] }}", "1.36 36"},
		{"{{ version | regex_replace('^([0-9]+)\\\\.([0-9]+).*', 'v\\\\1.\\\\2$') }}", "v1.36$"},
		{"{{ version | replace('.', '-') | upper }} {{ 'AB' | lower }} {{ ' x ' | trim }} {{ 'a/b.c' | " +
			"basename }}", "1-36-2 ab x b.c"},
		{"{{ on | bool }} {{ 'no' | bool }} {{ 'True' | bool }} {{ 1 | bool }} {{ '3.7' | int }} {{ 'x' | int(5) }} " +
			"{{ 5 | string }}", "True False True True 3 5 5"},
		{"{{ list | unique | sort | join }} {{ list | length }} {{ list | reverse | first }} {{ list | last }} {{ " +
			"'äb' | count }}", "ab 3 b b 2"},
		{"{{ list | map('upper') | join('') }} {{ table.amd64 | dict2items | map(attribute='value') | " +
			"join('/') }}", "BAB new/old/oldest"},
		{"{{ nested.b | join('-') }} {{ nested.a }} {{ nested['b'][0] + 1 }}", "36-2 1.36.2 37"},
		{"{{ (on | ternary('a', 'b')) ~ 1 }} {{ {'k': 'v'}['k'] }} {{ {'k': 'v'}.get('z', 'w') }} {{ ('a' " +
			"'b') }}", "a1 v w ab"},
		{"{{ lookup('vars', 'ver' + 'sion') }}{{ lookup('vars', 'zz', default='q') }}{{ lookup('env', " +
			"'HOME') }}", "1.36.2q"},
		{"{{ version.startswith('1.') }} {{ version.endswith('3') }} {{ ' y '.strip() }}", "True False y"},
		{"a {# no {{ word }} of this #}b {%- if on %}\nyes{% else %}no{% endif %}{% raw %}{{ x }}{% " +
			"endraw %}", "a byes{{ x }}"},
		{"{{ lines }}", "new"},
		{"{{ version is match('1') }} {{ version is search('36') }} {{ 'x' is string }} {{ 5 is number }} {{ table " +
			"is " +
			"mapping }} {{ list is iterable }} {{ on is true }} {{ on is boolean }}",
			"True True True True True True True True"},
		{"{{ '{{' }}{{ \"}}\" }}{{ 'it\\'s' }}", "{{}}it's"},
	} {
		x, err := testVariables(t).evaluate(c.template)
		got, terr := jinja.Text(x)
		if err != nil || terr != nil || got != c.want {
			t.Errorf("%s\ngot  %q (%v %v)\nwant %q", c.template, got, err, terr, c.want)
		}
	}
}

func TestJinjaErrors(t *testing.T) {
	deep := strings.Repeat("(", 100) + "1" + strings.Repeat(")", 100)
	for _, c := range []struct{ template, want string }{
		{"{{ nobody }}", "nobody is not defined"},
		{"{{ nobody.x }}y", "nobody is not defined"},
		{"x{{ broken }}", "vars.yml:15: the variable broken cannot be evaluated: nobody is not defined"},
		{"{{ self }}", "it refers to itself (self → self)"},
		{"{{ table.amd64['9'] }}z", `table["amd64"]["9"] is not defined`},
		{"{{ list[7] }}z", "list[7] is not defined"},
		{"{{ [] | first }}z", "first of nothing is not defined"},
		{"{{ 1 + 'a' }}", "a number + a string is not supported"},
		{"{{ 1 < 'a' }}", "have no order"},
		{"{{ 1 / 0 }}", "division by zero"},
		{"{{ '1.x' is version('1.2', '<') }}", "cannot be compared"},
		{"{{ '1' is version('2', '~') }}", `"~" does not compare versions`},
		{"{{ x | no_such }}", "x is not defined"},
		{"{{ 1 | no_such }}", "the filter no_such is not supported"},
		{"{{ 1 is no_such }}", "the test no_such is not supported"},
		{"{{ 'a'.no_such() }}", "the method no_such of a string is not supported"},
		{"{{ no_such(1) }}", "the function no_such is not supported"},
		{"{{ lookup('file', '/etc/passwd') }}", "lookup of file is not supported"},
		{"{{ 'a' | regex_replace('(?!b)', '') }}", "regex_replace: error parsing regexp"},
		{"{% for x in list %}{% endfor %}", "{% for %} is not supported"},
		{"{% if on %}x", "{% if %} without {% endif %}"},
		{"x{% endif %}", "{% endif %} without its begin"},
		{"{{ 'x }}", "does not end"},
		{"{{ 1", `no "}}" at its end`},
		{"{{ 1 2 }}", "2"},
		{"{{ " + deep + " }}", "nested deeper"},
		{"{{ table }}x", "a dictionary cannot be written as text"},
		{"{{ 9007199254740991 * 9 }}", "too large"},
	} {
		v := testVariables(t)
		x, err := v.evaluate(c.template)
		if u, not := x.(jinja.Undefined); err == nil && not {
			err = u
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s\ngot  %v, %v\nwant %s", c.template, x, err, c.want)
		}
	}
}

// A few lines of variables cannot make the memory or the time explode.
func TestJinjaBounds(t *testing.T) {
	var double, wide strings.Builder
	double.WriteString("v0: xxxxxxxxxxxxxxxx\n")
	wide.WriteString("v0: [1, 2, 3, 4]\n")
	for i := range 60 {
		fmt.Fprintf(&double, "v%d: \"{{ v%d }}{{ v%d }}\"\n", i+1, i, i)
		fmt.Fprintf(&wide, "v%d: \"{{ v%d + v%d }}\"\n", i+1, i, i)
	}
	for _, s := range []string{double.String(), wide.String()} {
		f, err := readVars("vars.yml", strings.NewReader(s))
		if err != nil {
			t.Fatal(err)
		}
		_, err = (&variables{}).with(f.defs).Lookup("v60")
		if err == nil || !strings.Contains(err.Error(), "of more than") {
			t.Errorf("got %v", err)
		}
	}
	_, err := readVars(
		"vars.yml",
		strings.NewReader(
			"a: &a [x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a]\nc: &c [*b, *b, *b, *b, *b, *b, "+
				"*b, *b]\n"+
				"d: &d [*c, *c, *c, *c, *c, *c, *c, *c]\ne: &e [*d, *d, *d, *d, *d, *d, *d, *d]\nf: &f [*e, *e, *e, "+
				"*e, *e, *e, *e, *e]\ng: [*f, *f, *f, *f, *f, *f, *f, *f]\n",
		),
	)
	if err == nil {
		t.Error("aliases of aliases were read")
	}
}

func FuzzJinja(f *testing.F) {
	for _, s := range []string{"{{ version }}", "{{ (table.amd64 | dict2items)[0].key }}", "{% if on %}a{% elif x " +
		"%}b{% else %}c{% endif %}", "{{ a if b else c | d('x') }}",
		"{{ list[1:] | map('regex_replace', 'a', 'b') | join(',') }}", "{{ version is not version('1', " +
			"'<') }}", "{# #}{% raw %}{% endraw %}", "{{ {'a': [1, -2.5]}['a'][0] ~ nested }}"} {
		f.Add(s)
	}
	v := testVariables(f)
	f.Fuzz(func(t *testing.T, s string) {
		x, err := v.with().evaluate(s)
		if err == nil {
			if s, err := jinja.Text(x); err == nil && len(s) > jinja.MaxText+jinja.MaxTemplate {
				t.Fatalf("%d bytes", len(s))
			}
		}
	})
}
