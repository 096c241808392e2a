// libcnidriver runs one verb of the real libcni, where cnitool cannot be had: libcnidriver add|check|del NETWORK CONTAINERID NETNS.
// NETCONFPATH, CNI_PATH, CNI_IFNAME, CNI_ARGS ("K=V;K=V") and CAP_ARGS (a JSON object) mean what they mean to cnitool.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/libcni"
)

func runtimeConf(containerID, netns string) (*libcni.RuntimeConf, error) {
	rt := &libcni.RuntimeConf{ContainerID: containerID, NetNS: netns, IfName: "eth0"}
	if ifname, set := os.LookupEnv("CNI_IFNAME"); set {
		rt.IfName = ifname
	}
	for _, pair := range strings.Split(os.Getenv("CNI_ARGS"), ";") {
		if key, value, found := strings.Cut(pair, "="); found {
			rt.Args = append(rt.Args, [2]string{key, value})
		}
	}
	if caps := os.Getenv("CAP_ARGS"); caps != "" {
		if err := json.Unmarshal([]byte(caps), &rt.CapabilityArgs); err != nil {
			return nil, fmt.Errorf("CAP_ARGS: %w", err)
		}
	}
	return rt, nil
}

func run(verb, network, containerID, netns string) error {
	list, err := libcni.LoadConfList(os.Getenv("NETCONFPATH"), network)
	if err != nil {
		return err
	}
	rt, err := runtimeConf(containerID, netns)
	if err != nil {
		return err
	}
	cni, ctx := libcni.NewCNIConfig(filepath.SplitList(os.Getenv("CNI_PATH")), nil), context.Background()
	switch verb {
	case "add":
		result, err := cni.AddNetworkList(ctx, list, rt)
		if err != nil {
			return err
		}
		return result.Print()
	case "check":
		return cni.CheckNetworkList(ctx, list, rt)
	case "del":
		return cni.DelNetworkList(ctx, list, rt)
	}
	return fmt.Errorf("unknown verb %q", verb)
}

func main() {
	if len(os.Args) != 5 {
		fmt.Fprintln(os.Stderr, "usage: libcnidriver add|check|del NETWORK CONTAINERID NETNS")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2], os.Args[3], os.Args[4]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
