"""Phrases of the agents in simulated calls, and the values for the slots in all phrases.

Everything here is invented. No phrase reveals its position in the call or responds to the customer, so the agent's
words carry no information about the intent.
"""

from __future__ import annotations

from typing import Final

COMPANIES: Final[dict[str, tuple[str, ...]]] = {
    "dental": ("阳光口腔医院", "康美口腔医院", "晨星牙科"),
    "beauty": ("丽颜美容中心", "花语美容院", "悦容皮肤管理"),
    "courses": ("学而优教育", "启航教育", "明日学堂"),
}

OFFERS: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "dental": (("牙齿矫正", "六千八百块"), ("种植牙", "两千八百块"), ("超声波洗牙", "九十八块")),
    "beauty": (("补水护理", "六十八块"), ("光子嫩肤", "五百八十块"), ("祛斑疗程", "一百九十八块")),
    "courses": (("英语口语课", "九百九十块"), ("少儿编程课", "一百二十块"), ("考研辅导班", "一千九百块")),
}
"""Products with their prices, by domain."""

VISITS: Final[dict[str, tuple[str, ...]]] = {
    "dental": ("免费拍一次片子", "请医生检查一次", "做一次口腔检查"),
    "beauty": ("免费测一次皮肤", "体验一次护理", "请老师看一下肤质"),
    "courses": ("免费试听一节课", "做一次水平测试", "领一套学习资料"),
}

COMMON_SLOTS: Final[dict[str, tuple[str, ...]]] = {
    "surname": ("李", "王", "张", "陈", "周"),
    "day": ("周三", "周五", "周六", "周日"),
    "half": ("上午", "下午"),
}

AGENT_PHRASES: Final = (
    "我们{company}的{product}现在只要{price}",
    "这个月底之前{product}都有优惠，只收{price}",
    "您可以先到{company}{visit}，不满意不收费",
    "我们的{product}很多老客户都选了，效果很稳定",
    "今天报名的话，{product}可以优惠到{price}",
    "{day}{half}我们还有两个名额",
    "我们{company}就在地铁站旁边，交通很方便",
    "我们跟您确认一下，{product}您以前了解过吗",
    "您要是有时间，{day}过来{visit}就行",
    "我们这边是{surname}老师负责，经验很丰富",
    "{product}原来的价格要高一倍，现在是{price}",
    "{company}开了十几年了，口碑一直很好",
    "我们现在搞活动，两个人一起来可以再减一点",
    "做{product}的客户，我们都会安排专人跟进",
    "{visit}是不收钱的，{day}{half}都可以安排",
    "这个{product}分几档，最实惠的一档是{price}",
    "我们可以分期付款，{price}分十二个月付",
    "我们有专门的{surname}经理给您做方案",
    "您看您这边对{product}有什么想法",
    "您方便的话，我给您讲一讲{product}的流程",
    "不知道您{day}{half}有没有空，来{visit}",
    "我们{company}在市里有三家店，您可以就近选一家",
    "{product}的名额不多，这个星期就截止了",
    "我们承诺没有别的收费，{price}就是全部",
    "很多客户都是朋友推荐到{company}来的",
    "您住的地方离{company}大概二十分钟",
    "像您这样的情况，我们一般建议选{product}",
    "我们每个月都会做一次回访，服务有保证",
    "{surname}主任{day}在，您可以来{visit}",
    "我们送您一张券，做{product}的时候可以抵一部分",
)

MORE_PRODUCTS: Final[dict[str, tuple[str, ...]]] = {
    "dental": ("隐形矫正", "牙齿美白", "全瓷牙冠", "窝沟封闭", "牙周治疗"),
    "beauty": ("水光针", "深层清洁", "眼部护理", "美白套餐", "肩颈按摩"),
    "courses": ("书法课", "数学提高班", "会计培训班", "绘画课", "商务日语课"),
}
MORE_PRICES: Final = ("三百块", "八百八十块", "一千二百块", "两千五百块", "三千块")

DOMAIN_SLOTS: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    domain: {
        "company": COMPANIES[domain],
        "product": (*(product for product, _ in offers), *MORE_PRODUCTS[domain]),
        "price": (*(price for _, price in offers), *MORE_PRICES),
        "visit": VISITS[domain],
    }
    for domain, offers in OFFERS.items()
}
"""Slots whose values depend on the domain."""

SLOTS: Final[dict[str, tuple[str, ...]]] = COMMON_SLOTS | {
    "place": (
        *("单位", "家里", "超市", "地铁站", "菜市场", "停车场", "办公室", "公园", "车站", "电梯口", "仓库", "银行"),
        *("图书馆", "邮局", "食堂", "楼道", "院子", "加油站"),
    ),
    "device": ("电视", "音响", "窗户", "风扇", "空调", "洗衣机", "水龙头", "收音机", "抽油烟机", "吸尘器"),
    "activity": ("装修", "放音乐", "说话", "搬家具", "开会", "唱歌", "打扫", "修水管", "踢球", "练琴", "吵架", "拍照"),
    "weather": ("下着雨", "有点冷", "有点热", "风很大", "雾很大", "太阳很大", "在下雪", "阴天"),
    "thing": ("雨伞", "钥匙", "水杯", "背包", "手套", "眼镜", "帽子", "菜篮子", "文件夹", "充电线", "袋子", "笔"),
    "vehicle": ("公交车", "出租车", "电梯", "地铁", "班车", "大巴", "火车", "轮渡"),
    "deed": ("吃过饭", "下了班", "起了床", "停好车", "买完菜", "跑完步", "洗完澡", "收完衣服", "扫完地", "睡醒"),
}
"""Slots whose values are the same in all domains."""
