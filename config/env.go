package config

import (
	"flag"
	"fmt"
	"strings"
)

// EnvPrefix begins the name of every environment variable that Busel reads.
const EnvPrefix = "BUSEL_"

// Env gives each flag that the command line did not set the value of its
// environment variable, if there is one and it is not empty: BUSEL_X_Y for the
// flag -x-y. Call it after fs.Parse; lookup is [os.LookupEnv]. The error names
// the variable.
func Env(fs *flag.FlagSet, lookup func(string) (string, bool)) error {
	given := make(map[string]bool)
	fs.Visit(func(f *flag.Flag) { given[f.Name] = true })
	var fault error
	fs.VisitAll(func(f *flag.Flag) {
		if given[f.Name] || fault != nil {
			return
		}
		name := EnvPrefix + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		value, ok := lookup(name)
		if !ok || value == "" {
			return
		}
		if err := fs.Set(f.Name, value); err != nil {
			fault = fmt.Errorf("environment variable %s: value %q: %w", name, value, err)
		}
	})
	return fault
}
