/* The kernel's own part of wiring an IPv4 pod: the objects that cni_calico/dataplane.py makes, by raw rtnetlink.
 *
 *     floor NETNS...
 *
 * For each line on stdin the next of these namespaces gets a veth pair (made there, the host's end born here, both
 * indexes chosen), which is taken away again. Printed are the ns that either took. No look-up, no check. Requests go in
 * two batches: the pair and all of the pod's; the host's, after the one setting that only a file below /proc/sys has.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_link.h>
#include <linux/ip.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define HOST_NAME "calibenchfloor"
#define POD_NAME "eth0"
#define ALIAS "calico:k8s-pod-network:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef:eth0"
#define FIRST_INDEX 0x100000 /* far above those the kernel has given */
#define RTPROT_CALICO 80
#define ROUTE_PRIORITY 1024

static const unsigned char host_mac[6] = { 0xee, 0xee, 0xee, 0xee, 0xee, 0xee };
static const unsigned char pod_mac[6] = { 0x0a, 0x58, 1, 2, 3, 4 };
static const int ipv4_conf[] = { /* dataplane.IPV4_CONF; all of them 1 */
	IPV4_DEVCONF_ROUTE_LOCALNET, IPV4_DEVCONF_PROXY_ARP, IPV4_DEVCONF_FORWARDING, IPV4_DEVCONF_RP_FILTER,
};

/* A batch of requests being written. */
static char batch[8192];
static size_t length;
static struct nlmsghdr *message; /* the last one */

static long long now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static void append(const void *data, size_t size)
{
	memcpy(batch + length, data, size);
	memset(batch + length + size, 0, NLMSG_ALIGN(size) - size);
	length += NLMSG_ALIGN(size);
	message->nlmsg_len = batch + length - (char *)message;
}

static void request(int type, int flags, const void *header, size_t size)
{
	message = (struct nlmsghdr *)(batch + length);
	*message = (struct nlmsghdr) { .nlmsg_type = type, .nlmsg_flags = NLM_F_REQUEST | flags };
	length += sizeof(*message);
	append(header, size);
}

static void attribute(int type, const void *data, size_t size)
{
	struct rtattr head = { .rta_type = type, .rta_len = RTA_LENGTH(size) };

	append(&head, sizeof(head));
	append(data, size);
}

static void number(int type, unsigned int value)
{
	attribute(type, &value, sizeof(value));
}

static struct rtattr *nest(int type)
{
	struct rtattr *head = (struct rtattr *)(batch + length);

	attribute(type | NLA_F_NESTED, "", 0);
	return head;
}

static void nested(struct rtattr *head)
{
	head->rta_len = batch + length - (char *)head;
}

/* Send the batch and wait for its end: only the last request is acknowledged, refusals come anyway. */
static void carry_out(int socket)
{
	char answer[16384];
	struct nlmsghdr *at = (struct nlmsghdr *)answer;
	ssize_t got;

	message->nlmsg_flags |= NLM_F_ACK;
	if (send(socket, batch, length, 0) < 0)
		err(1, "netlink");
	got = recv(socket, answer, sizeof(answer), 0);
	if (got < 0)
		err(1, "netlink");
	errno = EPROTO;
	if (NLMSG_OK(at, got) && at->nlmsg_type == NLMSG_ERROR)
		errno = -((struct nlmsgerr *)NLMSG_DATA(at))->error;
	if (errno)
		err(1, "the kernel refused a request");
	length = 0;
}

static void add_veth(int index, int home)
{
	struct ifinfomsg link = { .ifi_index = index };
	struct rtattr *info, *data, *peer;

	request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &link, sizeof(link));
	attribute(IFLA_IFNAME, POD_NAME, sizeof(POD_NAME));
	attribute(IFLA_ADDRESS, pod_mac, sizeof(pod_mac));
	number(IFLA_NUM_TX_QUEUES, 1);
	number(IFLA_NUM_RX_QUEUES, 1);
	info = nest(IFLA_LINKINFO);
	attribute(IFLA_INFO_KIND, "veth", sizeof("veth"));
	data = nest(IFLA_INFO_DATA);
	peer = nest(VETH_INFO_PEER);
	append(&link, sizeof(link));
	attribute(IFLA_IFNAME, HOST_NAME, sizeof(HOST_NAME));
	attribute(IFLA_ADDRESS, host_mac, sizeof(host_mac));
	number(IFLA_NET_NS_FD, home);
	number(IFLA_NUM_TX_QUEUES, 1);
	number(IFLA_NUM_RX_QUEUES, 1);
	nested(peer);
	nested(data);
	nested(info);
}

static void set_alias(int index)
{
	struct ifinfomsg link = { .ifi_index = index };

	request(RTM_NEWLINK, 0, &link, sizeof(link));
	attribute(IFLA_IFALIAS, ALIAS, strlen(ALIAS));
}

static void set_up(int index)
{
	struct ifinfomsg link = { .ifi_index = index, .ifi_flags = IFF_UP, .ifi_change = IFF_UP };

	request(RTM_NEWLINK, 0, &link, sizeof(link));
}

static void set_ipv4_conf(int index)
{
	struct ifinfomsg link = { .ifi_index = index };
	struct rtattr *families, *family, *conf;
	size_t i;

	request(RTM_NEWLINK, 0, &link, sizeof(link));
	families = nest(IFLA_AF_SPEC);
	family = nest(AF_INET);
	conf = nest(IFLA_INET_CONF);
	for (i = 0; i < sizeof(ipv4_conf) / sizeof(*ipv4_conf); i++)
		number(ipv4_conf[i], 1);
	nested(conf);
	nested(family);
	nested(families);
}

static void set_proxy_delay(int index, unsigned long long milliseconds)
{
	struct ndtmsg header = { .ndtm_family = AF_INET };
	struct rtattr *parameters;

	request(RTM_SETNEIGHTBL, 0, &header, sizeof(header));
	attribute(NDTA_NAME, "arp_cache", sizeof("arp_cache"));
	parameters = nest(NDTA_PARMS);
	number(NDTPA_IFINDEX, index);
	attribute(NDTPA_PROXY_DELAY, &milliseconds, sizeof(milliseconds));
	nested(parameters);
}

static void add_address(int index, in_addr_t address)
{
	struct ifaddrmsg header = { .ifa_family = AF_INET, .ifa_prefixlen = 32, .ifa_index = index };

	request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, &header, sizeof(header));
	attribute(IFA_ADDRESS, &address, sizeof(address));
	attribute(IFA_LOCAL, &address, sizeof(address));
}

static void add_neighbour(int index, in_addr_t address, const unsigned char *mac)
{
	struct ndmsg header = { .ndm_family = AF_INET, .ndm_ifindex = index, .ndm_state = NUD_PERMANENT };

	request(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, &header, sizeof(header));
	attribute(NDA_DST, &address, sizeof(address));
	attribute(NDA_LLADDR, mac, 6);
}

static void add_route(int index, in_addr_t to, in_addr_t gateway, int priority)
{
	struct rtmsg header = {
		.rtm_family = AF_INET, .rtm_dst_len = to ? 32 : 0, .rtm_table = RT_TABLE_MAIN,
		.rtm_protocol = RTPROT_CALICO, .rtm_scope = to ? RT_SCOPE_LINK : RT_SCOPE_UNIVERSE, .rtm_type = RTN_UNICAST,
	};

	request(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, &header, sizeof(header));
	number(RTA_OIF, index);
	if (to)
		attribute(RTA_DST, &to, sizeof(to));
	if (gateway)
		attribute(RTA_GATEWAY, &gateway, sizeof(gateway));
	if (priority)
		number(RTA_PRIORITY, priority);
}

/* Of a pod without IPv6 the host's end has none either, from before it is up. */
static void disable_ipv6(void)
{
	static const char path[] = "/proc/sys/net/ipv6/conf/" HOST_NAME "/disable_ipv6";
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, "1", 1) != 1)
		err(1, "%s", path);
	close(fd);
}

static int open_socket(void)
{
	int found = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE), yes = 1;

	if (found < 0 || setsockopt(found, SOL_NETLINK, NETLINK_CAP_ACK, &yes, sizeof(yes)))
		err(1, "netlink");
	return found;
}

static int open_socket_in(int netns, int home)
{
	int found;

	if (setns(netns, CLONE_NEWNET))
		err(1, "setns");
	found = open_socket();
	if (setns(home, CLONE_NEWNET))
		err(1, "setns");
	return found;
}

static int open_netns(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		err(1, "%s", path);
	return fd;
}

static void connect_pod(const char *path, int index, int host, int home)
{
	in_addr_t address = htonl(0x0a620001), gateway = htonl(0xa9fe0101); /* 10.98.0.1, 169.254.1.1 */
	int netns = open_netns(path), pod = open_socket_in(netns, home);

	add_veth(index, home);
	set_up(index);
	add_address(index, address);
	add_neighbour(index, gateway, host_mac);
	add_route(index, gateway, 0, 0);
	add_route(index, 0, gateway, 0);
	carry_out(pod);
	disable_ipv6();
	set_ipv4_conf(index);
	set_alias(index);
	set_up(index);
	add_route(index, address, 0, ROUTE_PRIORITY);
	add_neighbour(index, address, pod_mac);
	set_proxy_delay(index, 0);
	carry_out(host);
	close(pod);
	close(netns);
}

static void disconnect_pod(int index, int host)
{
	struct ifinfomsg link = { .ifi_index = index };

	request(RTM_DELLINK, 0, &link, sizeof(link));
	carry_out(host);
}

int main(int argc, char **argv)
{
	int host = open_socket(), home = open_netns("/proc/self/ns/net"), turn = 0;
	long long began, between;
	char line[16];

	if (argc < 2)
		errx(1, "usage: floor NETNS...");
	for (; fgets(line, sizeof(line), stdin); turn++) {
		began = now();
		connect_pod(argv[1 + turn % (argc - 1)], FIRST_INDEX + turn, host, home);
		between = now();
		disconnect_pod(FIRST_INDEX + turn, host);
		printf("%lld %lld\n", between - began, now() - between);
		fflush(stdout);
	}
	return 0;
}
