package config

import (
	"os"
	"strings"
	"testing"
)

func TestEditClient(t *testing.T) {
	usual := Settings{Listen: "127.0.0.1:1080", Policy: PolicyAuto, Learn: true}
	other := Settings{Listen: "auto", Policy: PolicyBond, Learn: false, Language: "be"}
	fixture, err := os.ReadFile("testdata/client.toml")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, in, want string
		set            Settings
		fails          bool
	}{
		{name: "nothing to say", set: usual},
		{name: "nothing there", set: other, want: "language = \"be\"\n\n[local]\nlisten = \"auto\"\n\n[rotation]\npolicy = \"bond\"\n\n[look]\nlearn = false\n"},
		{name: "comments stay", in: "# mine\n[local] # here\n  listen = \"127.0.0.1:9\" # old\nuser = \"a\"\npassword = \"b\"\n", set: Settings{Listen: "[::1]:1080", Policy: PolicyAuto, Learn: true},
			want: "# mine\n[local] # here\nlisten = \"[::1]:1080\"\nuser = \"a\"\npassword = \"b\"\n"},
		{name: "back to the default", in: "[look]\nlearn = false\n", set: usual, want: "[look]\nlearn = true\n"},
		{name: "a table without the key", in: "[look]\nuse = \"firefox\"", set: Settings{Listen: "127.0.0.1:1080", Policy: PolicyAuto, Learn: false}, want: "[look]\nlearn = false\nuse = \"firefox\""},
		{name: "all", in: string(fixture), set: other},
		{name: "a table in one line", in: "look = { learn = true }\n", set: other, fails: true},
		{name: "text of several lines", in: "[local]\nuser = \"\"\"\n[look]\nlearn = true\n\"\"\"\npassword = \"x\"\n", set: other, fails: true},
		{name: "no value", set: Settings{Listen: "nowhere", Policy: PolicyAuto, Learn: true}, fails: true},
		{name: "no policy", set: Settings{Listen: "auto", Policy: "all", Learn: true}, fails: true},
		{name: "no tag", set: Settings{Listen: "auto", Policy: "auto", Learn: true, Language: "b\"\n[local]"}, fails: true},
		{name: "broken before", in: "[local\n", set: other, fails: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := EditClient("client.toml", []byte(c.in), c.set)
			if c.fails {
				if err == nil {
					t.Fatalf("got %s", got)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if c.name != "all" && string(got) != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
			set, err := ParseClient("client.toml", got)
			if err != nil || set.Policy != c.set.Policy || set.Look.Learn != c.set.Learn || set.Language != c.set.Language {
				t.Errorf("got %+v, %v", set, err)
			}
			if again, err := EditClient("client.toml", got, c.set); err != nil || string(again) != string(got) {
				t.Errorf("a second time: %s, %v", again, err)
			}
			if c.name == "all" && (set.User != "anna" || len(set.Look.Keys) != 1 || !strings.HasPrefix(string(got), "# Sets every key")) {
				t.Errorf("something else was changed:\n%s", got)
			}
		})
	}
}

// Whatever the file, the result is what was asked for, or an error.
func FuzzEditClient(f *testing.F) {
	f.Add("[local]\nlisten = \"auto\"\n", "be", true)
	f.Add("look = { learn = true }\n[rotation]\n", "", false)
	f.Fuzz(func(t *testing.T, text, language string, learn bool) {
		before, fault := ParseClient("client.toml", []byte(text))
		s := Settings{Listen: "auto", Policy: PolicyBudget, Learn: learn, Language: language}
		got, err := EditClient("client.toml", []byte(text), s)
		if err != nil {
			return
		}
		after, err := ParseClient("client.toml", got)
		if err != nil || after.Policy != PolicyBudget || after.Look.Learn != learn || after.Language != language || after.Listen.Port() != 0 {
			t.Fatalf("%q became %q: %+v, %v", text, got, after, err)
		}
		if fault == nil && (before.User != after.User || before.Password != after.Password || before.LogLevel != after.LogLevel || before.Look.Use != after.Look.Use) {
			t.Fatalf("%q became %q, which says something else", text, got)
		}
	})
}

// TestEditLogin takes user and password out and puts them in again.
func TestEditLogin(t *testing.T) {
	const password = `four "random" \words\ ў`
	for _, c := range []struct{ name, in, without, with string }{
		{"nothing there", "", "", "[local]\nuser = \"anna\"\npassword = \"four \\\"random\\\" \\\\words\\\\ ў\"\n"},
		{"comments stay", "# mine\n[local] # here\nlisten = \"auto\"\nuser = \"o\"\npassword = 'old' # secret\n[look]\nlearn = false\n", "# mine\n[local] # here\nlisten = \"auto\"\n[look]\nlearn = false\n", ""},
	} {
		without, err := EditLogin("client.toml", []byte(c.in), "", "")
		if err != nil || string(without) != c.without {
			t.Errorf("%s: without it is\n%s\n%v", c.name, without, err)
		}
		with, err := EditLogin("client.toml", without, "anna", password)
		if err != nil || c.with != "" && string(with) != c.with {
			t.Errorf("%s: with it is\n%s\n%v", c.name, with, err)
		}
		if set, err := ParseClient("client.toml", with); err != nil || set.User != "anna" || string(set.Password) != password {
			t.Errorf("%s: %+v, %v", c.name, set, err)
		}
	}
	for name, in := range map[string]string{
		"text of several lines": "[local]\nuser = \"a\"\npassword = \"\"\"\nx\"\"\"\n",
		"a table in one line":   "local = { user = \"a\", password = \"b\" }\n",
		"broken":                "[local\n",
	} {
		if got, err := EditLogin("client.toml", []byte(in), "", ""); err == nil {
			t.Errorf("%s becomes\n%s", name, got)
		}
	}
}
