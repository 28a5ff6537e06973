package config

import (
	"flag"
	"io"
	"strings"
	"testing"
)

func TestEnv(t *testing.T) {
	for _, test := range []struct {
		args         []string
		env          map[string]string
		listen, name string
		count        int
		fault        string
	}{
		{nil, nil, "default", "", 1, ""},
		{nil, map[string]string{"BUSEL_LISTEN": "env", "BUSEL_COVER_NAME": "n"}, "env", "n", 1, ""},
		{[]string{"-listen", "flag"}, map[string]string{"BUSEL_LISTEN": "env"}, "flag", "", 1, ""},
		{[]string{"-listen", ""}, map[string]string{"BUSEL_LISTEN": "env"}, "", "", 1, ""},
		{nil, map[string]string{"BUSEL_LISTEN": ""}, "default", "", 1, ""},
		{nil, map[string]string{"BUSEL_COUNT": "x"}, "", "", 0, "BUSEL_COUNT"},
		{nil, map[string]string{"LISTEN": "env", "BUSEL_COVER-NAME": "n"}, "default", "", 1, ""},
	} {
		fs := flag.NewFlagSet("test", flag.ContinueOnError)
		fs.SetOutput(io.Discard)
		listen := fs.String("listen", "default", "")
		name := fs.String("cover-name", "", "")
		count := fs.Int("count", 1, "")
		if err := fs.Parse(test.args); err != nil {
			t.Fatal(err)
		}
		err := Env(fs, func(key string) (string, bool) { v, ok := test.env[key]; return v, ok })
		if (err != nil) != (test.fault != "") || err != nil && !strings.Contains(err.Error(), test.fault) {
			t.Errorf("%+v: got %v", test, err)
		}
		if err != nil {
			continue
		}
		if *listen != test.listen || *name != test.name || *count != test.count {
			t.Errorf("%+v: got %q, %q, %d", test, *listen, *name, *count)
		}
	}
}
