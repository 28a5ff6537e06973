package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func TestSecretIsNotShown(t *testing.T) {
	c, err := ParseClient("c", []byte("[local]\nuser = \"anna\"\npassword = \"hush\"\n"))
	if err != nil || string(c.Password) != "hush" {
		t.Fatalf("%v, %v", c, err)
	}
	var out bytes.Buffer
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
		fmt.Fprintf(&out, format+"\n", c)
		fmt.Fprintf(&out, format+"\n", c.Password)
	}
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "client", c, "password", c.Password)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "client", c, "password", c.Password)
	if err := json.NewEncoder(&out).Encode(c); err != nil {
		t.Fatal(err)
	}
	if text := out.String(); strings.Contains(text, "hush") || strings.Contains(text, "68757368") || !strings.Contains(text, "[secret]") {
		t.Errorf("shown:\n%s", text)
	}
	if got := fmt.Sprint(Secret("")); got != "" {
		t.Errorf("no secret is shown as %q", got)
	}
}

// TestPasswordFaultsDoNotQuote: an error ends up in terminals and bug reports.
func TestPasswordFaultsDoNotQuote(t *testing.T) {
	for _, file := range []string{
		"[local]\npassword = \"hush\"", "[local]\nuser = \"hu:sh\"\npassword = \"hush\"",
		"[local]\nuser = \"u\"\npassword = \"hush\\n\"", "[local]\nuser = 1\npassword = \"hush\"",
		"[local]\nuser = \"u\"\npassword = [\"hush\"]", "[local]\npassword = \"hush\n", "[local]\npassword = hush", "[local]\npassword = \"\\hush\"",
	} {
		_, err := ParseClient("c", []byte(file))
		if err == nil || strings.Contains(err.Error(), "hush") {
			t.Errorf("%q: %v", file, err)
		}
	}
}
